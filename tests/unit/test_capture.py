"""Taking over stdout, stderr and log records: only of code that runs for an attempt, and undone at the end."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator

import pytest

from openagents_json import StepContext
from openagents_json.components.output import sink
from openagents_json.job.engine import capture


class Kept:
    """A sink that keeps everything."""

    def __init__(self, *, echoes: bool = False, is_open: bool = True) -> None:
        self.texts: list[tuple[str, str]] = []
        self.echoes = echoes
        self.is_open = is_open

    def write(self, stream: str, text: str) -> bool:
        if self.is_open:
            self.texts.append((stream, text))
        return self.is_open

    def of(self, stream: str) -> str:
        return "".join(text for one, text in self.texts if one == stream)


@contextlib.contextmanager
def attempt(kept: Kept) -> Iterator[None]:
    token = sink.set(kept)
    try:
        yield
    finally:
        sink.reset(token)


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """No fixture: pytest puts its own streams in place again before each test."""
    capture.install()
    try:
        yield
    finally:
        capture.uninstall()


@installed()
def test_attempts_output_is_kept_and_everything_else_passes(capsys: pytest.CaptureFixture[str]) -> None:
    kept = Kept()
    print("before")
    with attempt(kept):
        print("inside", 1)
        print("trouble", file=sys.stderr)
        sys.stdout.writelines(["x", "y\n"])
    print("after")
    assert (kept.of("stdout"), kept.of("stderr")) == ("inside 1\nxy\n", "trouble\n")
    assert tuple(capsys.readouterr()) == ("before\nafter\n", "")


@installed()
def test_echoed_output_is_printed_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    kept = Kept(echoes=True)
    with attempt(kept):
        print("both")
    assert (kept.of("stdout"), capsys.readouterr().out) == ("both\n", "both\n")


@installed()
def test_output_of_an_attempt_that_has_ended_is_only_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with attempt(Kept(is_open=False)):
        print("late")
    assert capsys.readouterr().out == "late\n"


def test_streams_and_records_are_as_before_when_the_last_one_has_gone() -> None:
    before = sys.stdout, sys.stderr, logging.getLogRecordFactory()
    capture.install()
    capture.install()
    capture.uninstall()
    with attempt(kept := Kept()):
        print("still")
    assert kept.of("stdout") == "still\n"
    capture.uninstall()
    assert (sys.stdout, sys.stderr, logging.getLogRecordFactory()) == before


def test_stream_that_somebody_else_puts_in_place_is_taken_over_and_given_back() -> None:
    before = sys.stdout
    capture.install()
    with contextlib.redirect_stdout(io.StringIO()) as other, attempt(kept := Kept(echoes=True)):
        print("not ours yet")
        capture.ensure()
        print("ours")
    assert (other.getvalue(), kept.of("stdout")) == ("not ours yet\nours\n", "ours\n")
    capture.uninstall()
    assert sys.stdout is before


def test_what_was_put_on_top_stays_when_we_go() -> None:
    before = sys.stdout
    capture.install()
    with contextlib.redirect_stdout(io.StringIO()) as other:
        capture.uninstall()
        print("there")
        assert other.getvalue() == "there\n"
    print(end="")  # what is left of us passes everything through
    capture.install()
    capture.uninstall()
    assert sys.stdout is before


@installed()
def test_stand_in_is_the_stream_in_all_else() -> None:
    under = sys.stdout.under  # type: ignore[union-attr]
    assert (sys.stdout.encoding, sys.stdout.isatty()) == (under.encoding, under.isatty())
    with pytest.raises(TypeError):
        sys.stdout.write(b"bytes")  # type: ignore[arg-type]
    with attempt(Kept()), pytest.raises(TypeError):
        sys.stdout.write(b"bytes")  # type: ignore[arg-type]


# ── log records ───────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def quiet_root() -> Iterator[logging.Logger]:
    """The root logger as a program has it that configures no logging."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    root.setLevel(logging.WARNING)
    try:
        yield root
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@quiet_root()
@installed()
def test_log_records_of_an_attempt_are_kept_once() -> None:
    logging.getLogger().addHandler(logging.StreamHandler())  # writes to what sys.stderr is now: the stand-in
    logger = logging.getLogger("some.library")
    with attempt(kept := Kept()):
        logger.warning("%d of %s", 3, "them")
        logger.debug("too fine")
        try:
            raise ValueError("no luck")
        except ValueError:
            logger.exception("it broke")
        logging.getLogger("openagents_json.job").warning("the engine's own")
    logger.warning("nobody's")
    log = kept.of("log")
    assert log.startswith("WARNING 3 of them\nERROR it broke\nTraceback ") and log.endswith("ValueError: no luck\n")
    assert kept.of("stderr") == ""


@quiet_root()
@installed()
def test_step_logger_is_kept_from_info_on_whatever_is_configured() -> None:
    context = StepContext.for_tests()
    with attempt(kept := Kept()):
        context.logger.debug("too fine")
        context.logger.info("at %s", "work")
        context.logger.warning("careful")
        context.logger.info("wrong %d", "arguments")
    context.logger.info("nobody's")
    assert kept.of("log") == "INFO at work\nWARNING careful\nINFO 'wrong %d' ('arguments',)\n"


@quiet_root()
def test_programs_that_configure_logging_later_still_can(capsys: pytest.CaptureFixture[str]) -> None:
    capture.install()
    assert logging.getLogger().handlers == []
    logging.getLogger("x").warning("by the last resort")
    capture.uninstall()
    assert "by the last resort" in capsys.readouterr().err


@quiet_root()
@installed()
def test_record_with_a_wrong_format_breaks_nothing() -> None:
    logging.getLogger().addHandler(logging.NullHandler())
    with attempt(kept := Kept()):
        logging.getLogger("x").warning("%d", "text")
    assert kept.of("log") == "WARNING '%d' ('text',)\n"
