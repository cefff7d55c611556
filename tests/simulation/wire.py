"""The store as a simulated process reaches it: calls take time, fail, or happen without an answer."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from openagents_json.clock import Clock
from openagents_json.errors import StoreUnavailable
from openagents_json.job.store import JobStore, MemoryJobStore
from openagents_json.job.store.base import Pulse
from tests.faults.sizes import Hits
from tests.simulation.loop import Place

_OWN = {"close"}  # not a question to the store
VERBS = tuple(
    sorted(name for name in JobStore.__abstractmethods__ - _OWN if inspect.iscoroutinefunction(getattr(JobStore, name)))
)
TAKE_LEASES = frozenset({"claim", "create_held", "hold", "hold_again", "hold_due", "hold_orphans", "hold_requested"})
WRITES = TAKE_LEASES | {"create", "create_all", "commit", "release", "thread_ended", "delete"}
LOST = {
    "claim": "answer to a claim lost",
    "commit": "answer to a commit lost",
    "create": "answer to a create lost",
    "hold": "answer to a request lost",
}
PATIENCE_S = 0.02  # an ordinary call takes no longer


@dataclass
class Weather:
    """How bad the way to the store is for one process."""

    fails: float = 0.0  # the share of calls that fail before anything is written
    loses: float = 0.0  # of those that happen, and whose answer does not come
    slow: float = 0.0  # of those that take up to `slow_s` on each way
    slow_s: float = 0.0
    is_away: bool = False  # nothing arrives
    loses_beats: bool = False  # no heartbeat arrives; the rest does

    def clear_up(self) -> None:
        self.fails = self.loses = self.slow = self.slow_s = 0.0
        self.is_away = self.loses_beats = False


class Shared:
    """What all processes reach: one memory store, and who has written last."""

    def __init__(self, clock: Clock, random: Random, hits: Hits) -> None:
        self.memory = MemoryJobStore(clock)
        self.random = random
        self.hits = hits
        self.faults = 0  # of this seed
        self.writes: dict[Place, int] = {}
        self.is_over = False  # the seed ends: nobody gets an answer any more

    def hit(self, window: str) -> None:
        self.faults += 1
        self.hits.count(window)

    def writes_of_others(self, place: Place) -> int:
        return sum(count for one, count in self.writes.items() if one is not place)


class Wire(MemoryJobStore):
    """The store of one process. It keeps nothing: every verb goes to the shared one, if it arrives."""

    def __init__(self, shared: Shared, place: Place) -> None:
        super().__init__(shared.memory.clock)
        self.weather = Weather()
        self.under_way = 0  # calls
        self._shared = shared
        self._process = place
        self._seen = 0
        for verb in VERBS:
            setattr(self, verb, partial(self._call, verb, getattr(shared.memory, verb)))

    async def _call(self, verb: str, carry_out: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        self.under_way += 1
        try:
            return await self._try(verb, carry_out, *arguments, **named)
        finally:
            self.under_way -= 1

    async def _try(self, verb: str, carry_out: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        shared, weather, chance = self._shared, self.weather, self._shared.random.random
        if shared.is_over:
            raise StoreUnavailable("the simulation is over")
        is_slow = chance() < weather.slow
        await self._travel(is_slow)
        if weather.is_away or chance() < weather.fails:
            shared.hit("call failed before it wrote" if verb in WRITES else "reading failed")
            raise StoreUnavailable(f"{verb} did not arrive")
        loses = chance() < weather.loses
        try:
            answer = await carry_out(*arguments, **named)
        finally:
            if verb in WRITES:
                shared.writes[self._process] = shared.writes.get(self._process, 0) + 1
            await self._travel(is_slow)
            if loses:
                shared.hit(LOST.get(verb, "another answer lost"))
                raise StoreUnavailable(f"the answer to {verb} was lost")
        return answer

    async def _travel(self, is_slow: bool) -> None:
        random = self._shared.random
        if is_slow:
            seconds = random.uniform(0.0, self.weather.slow_s)
            self._shared.hit("store slower than a lease" if seconds > self.lease_s else "store slow")
            await asyncio.sleep(seconds)
        elif random.random() < 0.5:
            await asyncio.sleep(random.uniform(0.0, PATIENCE_S))

    def pulse(self, worker: str) -> Pulse:
        return _Pulse(self, self._shared.memory.pulse(worker))

    def beats_arrive(self) -> bool:
        """Whether a heartbeat that is sent now arrives; one that does not is a fault."""
        if self._shared.is_over:
            return False
        if not (self.weather.loses_beats or self.weather.is_away):
            return True
        self._shared.hit("heartbeat lost")
        return False

    def has_foreign_changes(self) -> bool:
        """As a database tells it: somebody else has written since the last question."""
        before, self._seen = self._seen, self._shared.writes_of_others(self._process)
        return self._seen != before


class _Pulse:
    def __init__(self, wire: Wire, pulse: Pulse) -> None:
        self._wire = wire
        self._pulse = pulse

    def beat(self) -> bool:
        if not self._wire.beats_arrive():
            raise StoreUnavailable("the heartbeat did not arrive")
        return self._pulse.beat()

    def close(self) -> None:
        pass
