"""What a seed does before it heals: who runs, what clients want, and which faults come when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.simulation.flows import FLOWS
from tests.simulation.wire import LOST
from tests.simulation.world import Process, World

FAULTS_S = 50.0  # so long things go wrong
FLOWS_PER_SEED = (3, 8)
FAULTS_PER_SEED = (2, 6)
CALM = 0.05  # the share of seeds without any fault
VERBS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("pause", {}),
    ("pause", {}),
    ("resume", {}),
    ("cancel", {"force": False}),
    ("cancel", {"force": True}),
    ("set_priority", {"priority": "HIGH"}),
)
WINDOWS = (
    "worker killed while a step ran",
    "worker killed between steps",
    "worker killed during a store call",
    "client killed",
    "worker closed",
    "worker stopped",
    "worker stopped for longer than a lease",
    "event loop blocked",
    "call failed before it wrote",
    "reading failed",
    *LOST.values(),
    "another answer lost",
    "store slow",
    "store slower than a lease",
    "heartbeat lost",
)


async def play(world: World) -> None:
    """Run the plan of this seed, moment by moment."""
    random = world.random
    for _ in range(random.randint(1, 3)):
        world.start()
    world.start(is_worker=False)
    moments: list[tuple[float, int, Callable[[], object]]] = []

    def at(seconds: float, act: Callable[[], object]) -> None:
        moments.append((seconds, len(moments), act))

    for number in range(random.randint(*FLOWS_PER_SEED)):
        key = f"job {number}"
        world.flows[key] = random.choice(FLOWS)
        at(random.uniform(0.0, FAULTS_S * 0.8), partial(_create, world, key))
        for _ in range(random.choice((0, 0, 1, 2))):
            at(random.uniform(0.0, FAULTS_S), partial(_ask, world, key))
    if random.random() >= CALM:
        for _ in range(random.randint(*FAULTS_PER_SEED)):
            at(random.uniform(0.0, FAULTS_S), partial(random.choice(FAULTS), world))
        at(0.0, partial(_bad_weather, world))
    for _ in range(3):
        at(random.uniform(0.0, FAULTS_S), world.look)
    for seconds, _, act in sorted(moments, key=lambda moment: moment[:2]):
        await asyncio.sleep(seconds - world.loop.time())
        act()
    await asyncio.sleep(FAULTS_S - world.loop.time())


# ── what clients want ─────────────────────────────────────────────────────────────────────────────────────────────


def _somebody(world: World) -> Process | None:
    return world.random.choice(world.live) if world.live else None


def _create(world: World, key: str) -> None:
    if (process := _somebody(world)) is not None:
        world.loop.run_in(process.place, world.create(process, key))


def _ask(world: World, key: str) -> None:
    verb, arguments = world.random.choice(VERBS)
    if (process := _somebody(world)) is not None and key in world.accepted:
        world.loop.run_in(process.place, world.ask(process, key, verb, arguments))


# ── faults ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _worker(world: World) -> Process | None:
    return world.random.choice(world.workers) if world.workers else None


def _crash(world: World) -> None:
    busy = [call.process for call in world.calls if call.process in world.live]
    process = world.random.choice(busy) if busy and world.random.random() < 0.5 else _somebody(world)
    if process is not None:
        world.crash(process)
        if world.random.random() < 0.7:
            world.loop.call_later(world.random.uniform(0.0, 10.0), partial(world.start, is_worker=process.is_worker))


def _close(world: World) -> None:
    if (process := _worker(world)) is not None:
        world.close(process)
        world.start()


def _stop(world: World) -> None:
    if (process := _worker(world)) is not None:
        world.stop(process, world.random.uniform(2.0, 70.0))


def _block(world: World) -> None:
    if (process := _worker(world)) is not None:
        world.stop(process, world.random.uniform(2.0, 50.0), only_loop=True)


def _lose_beats(world: World) -> None:
    if (process := _worker(world)) is not None:
        process.wire.weather.loses_beats = True


def _lose_way(world: World) -> None:
    if (process := _somebody(world)) is not None:
        process.wire.weather.is_away = True
        world.loop.call_later(world.random.uniform(1.0, 60.0), setattr, process.wire.weather, "is_away", False)


def _bad_weather(world: World) -> None:
    """Single calls fail, lose their answers, or take their time."""
    random = world.random
    for process in world.processes:
        weather = process.wire.weather
        weather.fails = random.choice((0.0, 0.02, 0.15))
        weather.loses = random.choice((0.0, 0.05, 0.3))
        weather.slow = random.choice((0.0, 0.05, 0.2))
        weather.slow_s = random.choice((1.0, 5.0, 40.0))


FAULTS = (_crash, _crash, _crash, _close, _stop, _block, _lose_beats, _lose_way, _bad_weather)
