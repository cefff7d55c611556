"""Pauses, grants and token buckets of the memory store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from openagents_json.job.store.grants import Grants, Known
from openagents_json.job.store.pauses import Pause, PauseKind

SWEEP_FROM = 1_000  # buckets, before those that are full are looked for


class MemoryGrants:
    """What workers hold of limits, and who of them waits: it ends with them."""

    def __init__(self) -> None:
        self._by_key: dict[str, dict[str, Grants]] = {}

    def known(self, keys: Iterable[str], is_alive: Callable[[str], bool]) -> dict[str, dict[str, Grants]]:
        """The grants of live workers, by key and worker."""
        return {
            key: {worker: one for worker, one in self._by_key.get(key, {}).items() if is_alive(worker)} for key in keys
        }

    def keys(self, worker: str) -> list[str]:
        """The keys of which a worker holds or wants something."""
        return [key for key, workers in self._by_key.items() if worker in workers]

    def write(self, worker: str, grants: Mapping[str, Grants | None]) -> None:
        """What is known of a worker from now on."""
        for key, one in grants.items():
            workers = self._by_key.setdefault(key, {})
            if one is None:
                workers.pop(worker, None)
            else:
                workers[worker] = one
            if not workers:
                del self._by_key[key]

    def forget(self, worker: str) -> None:
        """It is gone, and holds nothing any more."""
        self.write(worker, dict.fromkeys(self.keys(worker)))


class MemoryBuckets(dict[str, int]):
    """When buckets that are not full will be. Full ones are thrown away now and then."""

    def __init__(self) -> None:
        super().__init__()
        self._sweep_at = SWEEP_FROM

    def put(self, key: str, full_us: int, now_us: int) -> None:
        """Tokens were taken."""
        self[key] = full_us
        if len(self) >= self._sweep_at:
            for full in [other for other, at_us in self.items() if at_us <= now_us]:
                del self[full]
            self._sweep_at = 2 * len(self) + SWEEP_FROM


class MemoryPauses:
    """What is paused, and the jobs that claims have set aside because of it."""

    def __init__(self) -> None:
        self._pauses: dict[tuple[PauseKind, str], Pause] = {}
        self._aside: dict[str, dict[str, None]] = {}  # ids of jobs, by workflow

    def __len__(self) -> int:
        return len(self._pauses)

    def has(self, kind: PauseKind, name: str) -> bool:
        """Whether it is paused."""
        return (kind, name) in self._pauses

    def all(self) -> list[Pause]:
        """All, the oldest first."""
        return sorted(self._pauses.values(), key=lambda one: (one.at_us, one.kind, one.name))

    def add(self, pause: Pause) -> None:
        """It is paused from now on."""
        self._pauses[pause.kind, pause.name] = pause

    def drop(self, kind: PauseKind, name: str) -> list[str]:
        """It is paused no more; ids of jobs that were set aside, some of them perhaps gone."""
        del self._pauses[kind, name]
        return [] if kind == "component" else list(self._aside.pop(name, ()))

    def set_aside(self, workflow_id: str, job_id: str) -> None:
        """A claim has met a job of a paused workflow."""
        self._aside.setdefault(workflow_id, {})[job_id] = None

    def forget(self, workflow_id: str, job_id: str) -> None:
        """A job is gone."""
        if (aside := self._aside.get(workflow_id)) is not None:
            aside.pop(job_id, None)


def known_to(
    grants: MemoryGrants, buckets: Mapping[str, int], keys: Iterable[str], is_alive: Callable[[str], bool]
) -> Known:
    """What the rules need of these keys."""
    keys = list(keys)
    return Known(grants.known(keys, is_alive), {key: buckets[key] for key in keys if key in buckets})
