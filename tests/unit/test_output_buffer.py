"""The buffer of an attempt's output: bounded, in order, free of secrets, and usable from any thread."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, cast

import pytest

from openagents_json.job.engine import output as module
from openagents_json.job.engine.output import WAITING_BYTES, OutputBuffer, Outputs
from openagents_json.job.store.output import CHUNK_BYTES, HEAD_BYTES, PIECE_BYTES, OutputChunk
from openagents_json.testing import FakeClock


class Worker:
    """What a buffer needs of its `Outputs`."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.echoes = False
        self.told: list[OutputBuffer] = []

    def tell(self, buffer: OutputBuffer) -> None:
        self.told.append(buffer)


def make(worker: Worker, secrets: Mapping[str, str] | None = None) -> OutputBuffer:
    return OutputBuffer(cast(Outputs, worker), "job", "s", 1, secrets or {})


def pieces(chunks: list[OutputChunk]) -> list[tuple[str, str]]:
    return [(piece.stream, piece.text) for chunk in chunks for piece in chunk.pieces]


def test_texts_of_one_stream_become_one_piece_and_the_order_of_streams_stays() -> None:
    worker = Worker()
    buffer = make(worker)
    for stream, text in (("stdout", "a"), ("stdout", "\n"), ("stderr", "b\n"), ("stdout", "c\n"), ("stdout", "d\n")):
        assert buffer.write(stream, text)
    assert pieces(buffer.take()) == [("stdout", "a\n"), ("stderr", "b\n"), ("stdout", "c\nd\n")]
    assert buffer.take() == [] and worker.told == [buffer]


def test_later_line_is_a_piece_of_its_own_but_not_the_rest_of_a_line() -> None:
    worker = Worker()
    buffer = make(worker)
    for text in ("begun, ", "ended\n", "next\n"):
        buffer.write("stdout", text)
        worker.clock.advance(1)
    assert pieces(buffer.take()) == [("stdout", "begun, ended\n"), ("stdout", "next\n")]


def test_places_go_on_from_one_flush_to_the_next() -> None:
    buffer = make(Worker())
    buffer.write("stdout", "é\n")
    (first,) = buffer.take()
    buffer.write("log", "x\n")
    (second,) = buffer.take()
    assert (first.first, first.last) == (0, PIECE_BYTES + 3)
    assert (second.first, second.last) == (first.last, first.last + PIECE_BYTES + 2)


@pytest.mark.parametrize("size", [1, 100, 5_000, 10_000_000])
def test_no_more_than_the_bound_waits_and_beginning_and_end_are_kept(size: int) -> None:
    buffer = make(Worker())
    count = max(3_000_000 // size, 1) if size > 1 else 50_000
    for number in range(count):
        buffer.write(("stdout", "stderr")[number % 2], chr(97 + number % 26) * size)
    buffer.write("log", "the end\n")
    chunks = buffer.take()
    total = sum(chunk.last - chunk.first for chunk in chunks)
    assert WAITING_BYTES // 2 < total <= WAITING_BYTES + 2 * CHUNK_BYTES
    assert all(chunk.last - chunk.first <= 2 * CHUNK_BYTES + PIECE_BYTES for chunk in chunks)
    assert chunks[0].first == 0 and chunks[-1].pieces[-1].text == "the end\n"
    gaps = [(one.last, other.first) for one, other in pairwise(chunks) if one.last != other.first]
    assert len(gaps) == 1 and gaps[0][0] >= HEAD_BYTES


def test_secrets_are_masked_also_between_two_writes_and_two_flushes() -> None:
    buffer = make(Worker(), {"KEY": "hunter2-and-more"})
    buffer.write("stdout", "a hunter2")
    buffer.write("stderr", "hunter2")
    taken = pieces(buffer.take())
    buffer.write("stdout", "-and-more b\n")
    buffer.write("stderr", "-and-less\n")
    taken += pieces(buffer.take(close=True))
    assert "".join(text for stream, text in taken if stream == "stdout") == "a *** b\n"
    assert "".join(text for stream, text in taken if stream == "stderr") == "hunter2-and-less\n"


def test_secret_at_the_edge_of_what_is_cut_is_masked() -> None:
    buffer = make(Worker(), {"KEY": "hunter2-and-more"})
    for number in range(15_000):
        buffer.write("stdout", f"{number:04} hunter2-and-more"[: 21 - number % 2])
    assert "hunter2-and-more" not in "".join(text for _, text in pieces(buffer.take(close=True)))


def test_what_no_store_can_hold_is_replaced() -> None:
    buffer = make(Worker())
    buffer.write("stdout", "a\x00b\ud800c\n")
    assert pieces(buffer.take()) == [("stdout", "a�b?c\n")]


def test_closed_buffer_takes_nothing_more() -> None:
    buffer = make(Worker(), {"KEY": "hunter2"})
    buffer.write("stdout", "hunt")
    assert pieces(buffer.take(close=True)) == [("stdout", "hunt")]
    assert buffer.write("stdout", "more") is False
    assert buffer.take(close=True) == []


def test_threads_write_at_the_same_time_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAME_PIECE_US", 0)
    buffer = make(Worker())
    taken: list[Any] = []

    def write(name: str) -> None:
        for number in range(500):
            buffer.write("stdout", f"{name}{number}\n")

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken += buffer.take()
    taken += buffer.take(close=True)
    lines = "".join(text for _, text in pieces(taken)).split()
    assert sorted(lines) == sorted(f"{name}{number}" for name in "abcd" for number in range(500))
    assert all(one.last == other.first for one, other in pairwise(taken))
