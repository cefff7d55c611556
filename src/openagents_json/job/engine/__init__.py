"""The engine: carries out what the machine decides. `Worker` runs many jobs, `Runner` one job, `Attempt` one call."""

from openagents_json.job.engine.asking import Asker
from openagents_json.job.engine.calls import release_leak
from openagents_json.job.engine.leases import Leases
from openagents_json.job.engine.making import JobMaker
from openagents_json.job.engine.plans import Plans
from openagents_json.job.engine.retrying import make_retry
from openagents_json.job.engine.runner import JobIsThere
from openagents_json.job.engine.settle import Settler
from openagents_json.job.engine.sharing import Expectations
from openagents_json.job.engine.states import KnownStates
from openagents_json.job.engine.worker import Worker

__all__ = [
    "Asker",
    "Expectations",
    "JobIsThere",
    "JobMaker",
    "KnownStates",
    "Leases",
    "Plans",
    "Settler",
    "Worker",
    "make_retry",
    "release_leak",
]
