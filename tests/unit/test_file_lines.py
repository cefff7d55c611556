"""Lines of the file store: whatever happens to one of them is noticed, and times are exact."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from openagents_json.job.store.file_lines import Stamps, begins_group, body, fault_of, raw_lines, seal

STAMP = b"2026-01-01T00:00:00.000000Z"
documents = st.dictionaries(st.text(max_size=8), st.text(max_size=20) | st.integers() | st.none(), max_size=4)


def line(document: dict[str, object], **marks: object) -> bytes:
    encoded = json.dumps({"type": "of_a_test", "of": document}).encode()
    return seal(7, body(STAMP, encoded), **marks)  # type: ignore[arg-type]


@given(documents, st.none() | st.integers(0, 6), st.booleans(), st.booleans())
def test_line_is_json_and_says_all_that_it_was_given(
    document: dict[str, object], durable: int | None, joined: bool, more: bool
) -> None:
    sealed = line(document, durable=durable, joined=joined, more=more)
    assert fault_of(sealed) is None and sealed.count(b"\n") == 1
    assert begins_group(sealed) == (durable is not None)
    found = json.loads(sealed)
    assert (found["n"], found.get("durable"), found["at"]) == (7, durable, STAMP.decode())
    assert (found["type"], found["of"]) == ("of_a_test", document)
    assert (found.get("joined", False), found.get("more", False)) == (joined, more)


@given(documents, st.data())
def test_any_changed_bit_and_any_cut_is_a_fault(document: dict[str, object], data: st.DataObject) -> None:
    sealed = line(document)
    at = data.draw(st.integers(0, len(sealed) - 1))
    changed = bytearray(sealed)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    assert fault_of(bytes(changed)) is not None
    assert fault_of(sealed[:at]) is not None
    assert fault_of(sealed[:at] + bytes(len(sealed) - at)) is not None
    if at:
        assert fault_of(sealed[at:]) is not None


@given(st.lists(st.integers(0, 253_402_300_799_999_999)))
def test_times_come_back_as_they_were(times: list[int]) -> None:
    stamps, other = Stamps(), Stamps()
    assert [other.at_us(stamps.of(at_us).decode()) for at_us in times] == times


def test_lines_of_a_file_have_their_places(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntwo\n\nfour")
    found = [(raw.line, raw.byte, raw.data) for raw in raw_lines(path)]
    assert found == [(1, 0, b"one\n"), (2, 4, b"two\n"), (3, 8, b"\n"), (4, 9, b"four")]
    assert [raw.data for raw in raw_lines(path, 6)] == [b"one\n", b"tw"]
