"""Job ids: UUIDv7 (RFC 9562 §5.7), ordered within a process, shown short beside their workflow."""

from __future__ import annotations

import os
import threading

_lock = threading.Lock()
_last_ms = (
    0  # written and read under _lock; never falls, so ids of one process are ordered even if the clock is set back
)
_counter = 0  # 0 … 4095 within one millisecond
_random: list[int] = []  # drawn and not used yet, under _lock: asking the system for each id costs more than the id
_DRAWN = 64

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.clear)  # a forked process would use the same again

SHORT_LENGTH = 8


def uuid7(now_us: int) -> str:
    """A new UUIDv7 for the time `now_us`, as its 36 characters. Later calls in a process give greater ids."""
    global _last_ms, _counter
    with _lock:
        ms = now_us // 1000
        if ms > _last_ms:
            _last_ms, _counter = ms, 0
        else:
            _counter += 1
            if _counter > 0xFFF:  # more than 4,096 in one millisecond: borrow from the next one
                _last_ms, _counter = _last_ms + 1, 0
        ms, counter = _last_ms, _counter
        if not _random:
            drawn = os.urandom(8 * _DRAWN)
            _random.extend(int.from_bytes(drawn[at : at + 8], "big") >> 2 for at in range(0, len(drawn), 8))
        random = _random.pop()
    digits = f"{(ms & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | counter << 64 | 0b10 << 62 | random:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def short_id(job_id: str) -> str:
    """The last characters of an id: the random ones, since UUIDv7s of one day begin alike."""
    return job_id[-SHORT_LENGTH:]
