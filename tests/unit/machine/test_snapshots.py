"""Snapshots are a cache: at every prefix of a history they lead to the state that the history gives."""

from __future__ import annotations

from typing import Any

import pytest

from openagents_json.errors import StoreError
from openagents_json.job.events import decode_events, encode_events
from openagents_json.job.machine import decode_snapshot, fold
from tests.unit.machine.drive import Drive, call, reloaded, snapshot


def eventful() -> Drive:
    """A job with everything in its history that there is."""
    items = {"id": "f", "foreach": "{{ inputs.items }}", "concurrency": 2, "on_item_error": "collect"}
    document: dict[str, Any] = {
        "steps": [
            {"id": "s", "set": {"n": "{{ inputs.items | length }}"}},
            call("skipped", condition=False),
            call("a", retry={"max_attempts": 3, "delay_seconds": 60.0}),
            items | {"steps": [call("i", inputs={"v": "{{ item ~ '!' }}"}), call("j")]},
            call("b", needs=["a"]),
        ],
        "finally": [call("z")],
    }
    drive = Drive(document, {"items": ["x", "y", "z"]})
    drive.fail("a")
    drive.request("set_priority", priority="HIGH")
    drive.tick(60)
    drive.claim("worker-2")
    drive.crash("worker-2")
    drive.claim("worker-3")
    drive.pause()
    drive.resume()
    drive.succeed("a", {"deep": [1, {"x": None}]})
    drive.succeed("f[0].i", 1.5)
    drive.pause()
    drive.finish()
    drive.resume()
    drive.claim("worker-4")
    drive.fail("f[1].j", "boom")
    drive.release()
    drive.finish()
    drive.claim("worker-5")
    drive.succeed("f[2].i")
    drive.cancel()
    drive.finish()
    assert drive.status == "CANCELLED"
    return drive


def test_fold_of_every_prefix_with_a_snapshot_at_every_place_gives_the_same_state() -> None:
    drive = eventful()
    whole = snapshot(fold(drive.plan, drive.history))
    assert whole == snapshot(drive.state)
    for place in drive.commits:
        state = reloaded(fold(drive.plan, drive.history[:place]))
        assert state.number == place
        assert snapshot(fold(drive.plan, drive.history[place:], state)) == whole


def test_history_and_snapshot_agree_at_every_single_event() -> None:
    drive = eventful()
    step_by_step = fold(drive.plan, [])
    for place, event in enumerate(drive.history, 1):
        step_by_step = fold(drive.plan, [event], reloaded(step_by_step))
        assert snapshot(step_by_step) == snapshot(fold(drive.plan, drive.history[:place]))


def test_progress_never_falls_along_a_history() -> None:
    drive = eventful()
    progress = [fold(drive.plan, drive.history[:place]).progress for place in range(1, len(drive.history) + 1)]
    assert progress == sorted(progress)
    assert progress[0] == 0.0
    assert progress[-1] <= 1.0


def test_events_survive_being_written_and_read() -> None:
    drive = eventful()
    assert decode_events(encode_events(drive.history)) == drive.history
    assert drive.history[0].as_dict()["at"].endswith("+00:00")


def test_reloaded_job_decides_as_the_live_one_does() -> None:
    live = Drive([call("a"), call("b", needs=[]), call("c")], slots=1)
    other = Drive([call("a"), call("b", needs=[]), call("c")], slots=1)
    for drive in (live, other):
        drive.succeed("a")
    other.state = reloaded(other.state)
    other.tick()
    for drive in (live, other):
        drive.succeed("b")
        drive.succeed("c")
    assert live.history == other.history


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"number": "x"}', b"\x00\xff"])
def test_bytes_that_are_no_snapshot_are_a_store_error(data: bytes) -> None:
    with pytest.raises(StoreError, match="does not decode"):
        decode_snapshot(data, Drive([call("a")]).plan)
