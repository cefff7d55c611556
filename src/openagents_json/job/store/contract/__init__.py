"""The contract suite: what every store must do, as tests. A store that passes keeps the promises of `base`.

Derive from `StoreContract` in a test module and give it a store that runs by the test's clock:

    pytest.register_assert_rewrite("openagents_json.job.store.contract")    # in conftest.py: readable failures

    class TestMyStore(StoreContract):
        @pytest_asyncio.fixture
        async def store(self, clock: FakeClock) -> AsyncIterator[JobStore]:
            store = MyStore(clock)
            await store.open()
            yield store
            await store.close()

It needs pytest and pytest-asyncio, and the mark `guarantee(name)` registered where pytest is strict about marks. All
jobs in it are made by the machine, so histories and rows fit together; `jobs` has the helpers.
"""

from openagents_json.job.store.contract.accepting import AcceptingContract
from openagents_json.job.store.contract.aging import AgingContract
from openagents_json.job.store.contract.budgets import BudgetContract
from openagents_json.job.store.contract.commits import CommitContract
from openagents_json.job.store.contract.family import FamilyContract
from openagents_json.job.store.contract.grants import GrantContract
from openagents_json.job.store.contract.held import HeldContract
from openagents_json.job.store.contract.leaks import LeaksContract
from openagents_json.job.store.contract.leases import LeaseContract
from openagents_json.job.store.contract.leases_again import LeasesAgainContract
from openagents_json.job.store.contract.limits import LimitContract
from openagents_json.job.store.contract.listing import ListingContract
from openagents_json.job.store.contract.moving import MovingContract
from openagents_json.job.store.contract.output import OutputContract
from openagents_json.job.store.contract.overflow import OverflowContract
from openagents_json.job.store.contract.pauses import PauseContract
from openagents_json.job.store.contract.resources import ResourceContract
from openagents_json.job.store.contract.room import RoomContract
from openagents_json.job.store.contract.shares import ShareContract
from openagents_json.job.store.contract.upkeep import UpkeepContract
from openagents_json.job.store.contract.workers import WorkerContract

__all__ = [
    "AcceptingContract",
    "AgingContract",
    "BudgetContract",
    "CommitContract",
    "FamilyContract",
    "GrantContract",
    "HeldContract",
    "LeaksContract",
    "LeaseContract",
    "LeasesAgainContract",
    "LimitContract",
    "ListingContract",
    "MovingContract",
    "OutputContract",
    "OverflowContract",
    "PauseContract",
    "ResourceContract",
    "RoomContract",
    "ShareContract",
    "StoreContract",
    "UpkeepContract",
    "WorkerContract",
]


class StoreContract(
    AcceptingContract,
    AgingContract,
    HeldContract,
    LeaseContract,
    LeasesAgainContract,
    WorkerContract,
    ResourceContract,
    CommitContract,
    FamilyContract,
    LeaksContract,
    LimitContract,
    ListingContract,
    MovingContract,
    OutputContract,
    OverflowContract,
    RoomContract,
    PauseContract,
    GrantContract,
    ShareContract,
    UpkeepContract,
    BudgetContract,
):
    """All of it. The subclass provides the fixture `store`; `clock` is here."""
