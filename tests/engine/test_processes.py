"""Steps in processes: what comes back, what a process may do without harm, and that nothing is left of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from openagents_json import FatalError, InvalidInputs, RetryableError, StepFailure
from openagents_json.amounts import Amounts
from openagents_json.components import Resource, reference_to
from openagents_json.job.engine.processes import LogLine, Output, ProcessCall, ProcessPool, ProcessRun, frames, groups
from tests.engine.process_components import registry

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


class Recorder:
    """A link and an output callback that remember."""

    def __init__(self) -> None:
        self.progressed: list[tuple[float, str]] = []
        self.emitted: list[Any] = []
        self.spent: list[Amounts] = []
        self.tracked: list[Resource] = []
        self.printed: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self.largest_chunk = 0
        self.logged: list[LogLine] = []
        self.record: Future[str] = Future()  # what `track` gives

    def progress(self, fraction: float, message: str) -> None:
        self.progressed.append((fraction, message))

    def emit(self, data: Any) -> None:
        self.emitted.append(data)

    def spend(self, spent: Amounts) -> None:
        self.spent.append(spent)

    def track(self, resource: Resource) -> Future[str]:
        self.tracked.append(resource)
        return self.record

    def on_output(self, stream: Output, data: bytes | LogLine) -> None:
        if isinstance(data, LogLine):
            self.logged.append(data)
        else:
            self.largest_chunk = max(self.largest_chunk, len(data))
            self.printed[stream] = (self.printed[stream] + data)[-100_000:]


class Bench:
    """A pool with its recorder."""

    def __init__(self, pool: ProcessPool) -> None:
        self.pool = pool
        self.recorder = Recorder()

    def submit(
        self, name: str, *, memory_mb: int | None = None, cpu_s: float | None = None, **inputs: Any
    ) -> ProcessRun:
        return self.pool.submit(
            ProcessCall(
                reference_to(registry.get(name)),
                inputs,
                job_id="job",
                workflow_id="workflow",
                step="a.b[1]",
                attempt=2,
                idempotency_key="key",
                fencing_token=7,
                deadline_us=0,
                link=self.recorder,
                on_output=self.recorder.on_output,
                memory_mb=memory_mb,
                cpu_s=cpu_s,
            )
        )

    async def call(self, name: str, **inputs: Any) -> Any:
        return await self.submit(name, **inputs).done

    async def failure(self, name: str, **inputs: Any) -> StepFailure:
        with pytest.raises(StepFailure) as caught:
            await self.call(name, **inputs)
        return caught.value

    async def start(self, name: str, started: Path, **inputs: Any) -> ProcessRun:
        """Submit, and wait until the component has touched the file."""
        run = self.submit(name, started=str(started), **inputs)
        await wait_until(lambda: started.exists() or run.done.done())
        assert started.exists(), run.done
        return run


async def wait_until(is_true: Callable[[], bool]) -> None:
    """Look every few milliseconds, since files and other processes tell nobody; the test's timeout is the limit."""
    while not is_true():  # noqa: ASYNC110
        await asyncio.sleep(0.003)


def open_files() -> int:
    gc.collect()
    return psutil.Process().num_fds()


# One loop and one pool for all tests: a process takes a second to start, and being used for many calls is its life.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[ProcessPool]:
    files, others = open_files(), psutil.Process().children()
    made = ProcessPool(limit=2)
    yield made
    await made.close()
    assert made.pids == []
    assert psutil.Process().children() == others  # nothing of ours, neither running nor zombie
    assert open_files() <= files


@pytest.fixture
def bench(pool: ProcessPool) -> Bench:
    return Bench(pool)


@contextlib.asynccontextmanager
async def own_bench(**options: Any) -> AsyncIterator[Bench]:
    """A pool for one test, which has to leave nothing, beside whatever the pool of the others has."""
    made = Bench(ProcessPool(**options))
    yield made
    pids = made.pool.pids
    await made.pool.close()
    assert made.pool.pids == []
    assert not any(psutil.pid_exists(pid) for pid in pids)


def runs(pid: int) -> bool:
    """Whether a process runs: a zombie that nobody has waited for does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# ── results ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_output_is_plain_json(bench: Bench) -> None:
    value = {"a": [1, 2.5, None, True, "ü", 2**70], "b": {}}
    assert await bench.call("echo", value=value) == value


async def test_arguments_have_the_declared_types(bench: Bench) -> None:
    assert await bench.call("typed", day="2026-02-03", point={"x": 1, "y": 2}) == {"year": 2026, "sum": 3}


async def test_wrong_inputs_are_told_with_all_problems(bench: Bench) -> None:
    with pytest.raises(InvalidInputs, match="The inputs of component 'typed'") as caught:
        await bench.call("typed", day="never", point={"x": "one"})
    assert [problem.path for problem in caught.value.problems] == ["$.inputs.day", "$.inputs.point.x"]


async def test_async_component_runs_in_an_event_loop(bench: Bench) -> None:
    assert [await bench.call("asynchronous", value=value) for value in (1, 2)] == [2, 3]


async def test_agent_is_made_once_for_sync_and_async_capabilities(bench: Bench) -> None:
    count, made = await bench.call("counter.add", amount=0)
    assert (count >= 110, made) == (True, 1)
    assert await bench.call("counter.add_later", amount=2) == [count + 2, 1]
    assert await bench.call("counter.add", amount=3) == [count + 5, 1]


async def test_component_sees_its_attempt(bench: Bench) -> None:
    about = await bench.call("about")
    assert about == ["job", "workflow", "a.b[1]", 2, "key", 7, "1970-01-01 00:00:00+00:00"]


async def test_module_is_imported_once_and_calls_run_in_the_main_thread(bench: Bench) -> None:
    found = [await bench.call("where") for _ in range(3)]
    assert found[0]["pid"] != os.getpid()
    first = found[0]
    assert [(one["pid"], one["calls"]) for one in found] == [(first["pid"], first["calls"] + n) for n in range(3)]
    assert all((one["imports"], one["main_thread"], one["stdin"]) == (1, True, "") for one in found)


async def test_megabyte_goes_in_and_out(bench: Bench) -> None:
    text = "x" * 1_000_000
    assert await bench.call("echo", value=text) == text


# ── talking ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_progress_emit_and_track_reach_the_link(bench: Bench) -> None:
    run = bench.submit("talk")
    await wait_until(lambda: bool(bench.recorder.tracked))
    assert not run.done.done()  # track returns when the resource is recorded, not before
    bench.recorder.record.set_result("id 1")
    assert await run.done == "id 1"
    assert bench.recorder.progressed == [(0.5, "half")]
    assert bench.recorder.emitted == [{"token": "a"}]
    assert bench.recorder.tracked == [Resource("vm", "release_vm", {"id": 7}, "job", True)]


async def test_track_of_a_coroutine(bench: Bench) -> None:
    bench.recorder.record.set_result("id 2")
    assert await bench.call("talk_async") == "id 2"


async def test_track_raises_what_the_record_raised(bench: Bench) -> None:
    bench.recorder.record.set_exception(FatalError("store.lease_lost", "another worker has it"))
    error = await bench.failure("talk")
    assert (error.code, str(error), error.retryable) == ("store.lease_lost", "another worker has it", False)


async def test_all_that_was_printed_is_there_before_the_result(bench: Bench) -> None:
    for lines in (3, 500):
        bench.recorder.printed = {"stdout": b"", "stderr": b""}
        await bench.call("say", lines=lines)
        assert bench.recorder.printed["stderr"].decode().splitlines() == [f"err {line}" for line in range(lines)]
        out = bench.recorder.printed["stdout"].decode().splitlines()
        assert out == [*(f"out {line}" for line in range(lines)), "no end of line"]


async def test_log_lines_come_with_level_and_logger(bench: Bench) -> None:
    await bench.call("log")
    assert [(line.level, line.logger, line.message) for line in bench.recorder.logged] == [
        ("WARNING", "some.library", "careful with this"),
        ("INFO", "openagents_json.step", "going on"),
    ]


async def test_flood_of_output_is_drained_in_chunks(bench: Bench) -> None:
    assert await bench.call("print_much", megabytes=100) == 100
    assert bench.recorder.largest_chunk <= 64 * 1024


async def test_fork_of_a_component_does_not_talk_in_its_name(bench: Bench) -> None:
    assert await bench.call("fork_and_return") == 0
    assert (bench.recorder.progressed, bench.recorder.logged) == ([], [])
    assert await bench.call("echo", value=1) == 1


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_error_of_a_component_crosses_with_its_traceback(bench: Bench) -> None:
    error = await bench.failure("fail", how="value")
    assert (error.code, str(error), error.retryable) == ("component.ValueError", "no such value", None)
    assert b'raise ValueError("no such value")' in bench.recorder.printed["stderr"]


async def test_step_failures_keep_what_they_say(bench: Bench) -> None:
    retryable = await bench.failure("fail", how="retryable")
    assert isinstance(retryable, RetryableError)
    assert (retryable.code, retryable.delay_s, retryable.details) == ("http.503", 2.5, {"status": 503})
    fatal = await bench.failure("fail", how="fatal")
    assert isinstance(fatal, FatalError)
    assert (fatal.code, str(fatal)) == ("http.404", "gone")


@pytest.mark.parametrize(
    ("how", "code"), [("exit", "component.SystemExit"), ("interrupt", "component.KeyboardInterrupt")]
)
async def test_exit_ends_the_call_alone(bench: Bench, how: str, code: str) -> None:
    assert (await bench.failure("fail", how=how)).code == code
    assert await bench.call("echo", value=1) == 1


@pytest.mark.parametrize(
    ("how", "details"),
    [
        ("abort", {"signal": "SIGABRT"}),
        ("kill", {"signal": "SIGKILL"}),
        ("segv", {"signal": "SIGSEGV"}),
        ("exit", {"exit_code": 3}),
    ],
)
async def test_crash_is_told_with_its_signal_or_exit_code(bench: Bench, how: str, details: dict[str, Any]) -> None:
    neighbour = bench.submit("asynchronous", value=1)
    error = await bench.failure("die", how=how)
    assert (error.code, error.details, error.retryable) == ("process.died", details, None)
    assert bench.recorder.printed["stdout"] == b"last words\n"
    assert await neighbour.done == 2
    assert await bench.call("echo", value=1) == 1


@pytest.mark.parametrize("name", ["write_everywhere", "forge_frame"])
async def test_garbage_in_the_pipe_kills_the_process_alone(bench: Bench, name: str) -> None:
    assert (await bench.failure(name)).code == "process.garbage"
    assert await bench.call("echo", value=1) == 1


async def test_output_beyond_the_limit_or_of_another_type_is_refused(bench: Bench) -> None:
    assert (await bench.failure("return_much", characters=2**20)).code == "limit.output"
    wrong = await bench.failure("return_wrong")
    assert (wrong.code, wrong.retryable) == ("output.invalid", False)


async def test_memory_limit_ends_the_call_and_not_the_next(bench: Bench) -> None:
    error = await bench.failure("allocate", megabytes=200, memory_mb=100)
    assert (error.code, error.retryable) == ("resource.memory", None)
    assert await bench.call("allocate", megabytes=20, memory_mb=100) == 20 * 2**20
    assert await bench.call("allocate", megabytes=200) == 200 * 2**20


async def test_cpu_limit_ends_the_process(bench: Bench, tmp_path: Path) -> None:
    error = await bench.failure("compute", started=str(tmp_path / "started"), cpu_s=0.1)
    assert error.code == "resource.cpu"
    assert "0.1 s" in str(error)


# ── stopping ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_told_component_sees_the_reason(bench: Bench, tmp_path: Path) -> None:
    run = await bench.start("wait_told", tmp_path / "started")
    run.tell("timeout")
    assert await run.done == "timeout"
    run.tell("too late")
    run.terminate()
    run.kill()  # the process may have the next call by now
    assert await bench.call("echo", value=1) == 1


async def test_reason_told_before_the_process_is_there_arrives(bench: Bench, tmp_path: Path) -> None:
    run = bench.submit("wait_told", started=str(tmp_path / "started"))
    run.tell("cancelled")
    assert await run.done == "cancelled"


@pytest.mark.parametrize("name", ["clean_up", "clean_up_async"])
async def test_terminated_component_cleans_up(bench: Bench, tmp_path: Path, name: str) -> None:
    ended = tmp_path / "ended"
    run = await bench.start(name, tmp_path / "started", ended=str(ended))
    pid = run.pid
    run.terminate()
    with pytest.raises(StepFailure) as caught:
        await run.done
    assert caught.value.code == "process.terminated"
    assert ended.exists()
    assert (tmp_path / "ended.deferred").exists() == (name == "clean_up")
    assert pid is not None
    assert not runs(pid)


async def test_output_of_a_terminated_component_counts(bench: Bench, tmp_path: Path) -> None:
    run = await bench.start("finish_anyway", tmp_path / "started")
    pid = run.pid
    run.terminate()
    assert await run.done == "finished"
    assert pid not in bench.pool.pids


async def test_sigterm_does_not_cut_a_frame(bench: Bench, tmp_path: Path) -> None:
    run = await bench.start("talk_without_end", tmp_path / "started")
    await wait_until(lambda: len(bench.recorder.emitted) > 20)
    run.terminate()
    with pytest.raises(StepFailure) as caught:
        await run.done
    assert caught.value.code == "process.terminated"


@pytest.mark.parametrize("name", ["compute", "hold_the_interpreter", "ignore_sigterm"])
async def test_kill_ends_whatever_runs(bench: Bench, tmp_path: Path, name: str) -> None:
    run = await bench.start(name, tmp_path / "started")
    pid = run.pid
    if name != "compute":
        run.terminate()
    run.kill()
    with pytest.raises(StepFailure) as caught:
        await run.done
    assert caught.value.code == "process.killed"
    assert pid not in bench.pool.pids
    assert await bench.call("echo", value=1) == 1


@linux
async def test_grandchildren_are_killed_too(bench: Bench, tmp_path: Path) -> None:
    run = await bench.start("start_grandchildren", tmp_path / "started", count=20)
    assert run.pid is not None
    group = run.pid
    assert sum(1 for _ in groups.members(group)) >= 21
    run.kill()
    with pytest.raises(StepFailure):
        await run.done
    assert [pid for pid, state in groups.members(group) if state not in "ZX"] == []


async def test_grandchild_of_a_process_that_exits_is_killed(bench: Bench, tmp_path: Path) -> None:
    started = tmp_path / "started"
    error = await bench.failure("leave_grandchild", started=str(started))
    assert error.details == {"exit_code": 0}
    assert not runs(int(started.read_text()))


@linux
@pytest.mark.parametrize("how", ["kill", "terminate"])
@pytest.mark.parametrize("has_environment", [True, False])
async def test_daemon_of_a_component_is_gone_when_the_call_was_ended(
    bench: Bench, tmp_path: Path, how: str, has_environment: bool
) -> None:
    """It has left the group, the session and its parent, and ignores SIGTERM."""
    started = tmp_path / "started"
    run = await bench.start("start_daemon", started, has_environment=has_environment)
    daemon = int(started.read_text())
    assert runs(daemon) and os.getpgid(daemon) != run.pid
    getattr(run, how)()
    assert await _code(run) == ("process.killed" if how == "kill" else "process.terminated")
    assert not runs(daemon)


@linux
async def test_daemon_of_a_process_that_ended_by_itself_is_gone_too(bench: Bench, tmp_path: Path) -> None:
    failure = await bench.failure("start_daemon", started=str(tmp_path / "started"), then="exit")
    assert failure.code == "process.died"
    assert not runs(int((tmp_path / "started").read_text()))


@linux
async def test_daemon_that_a_call_has_left_ends_with_its_process(tmp_path: Path) -> None:
    """Until then it may serve further calls of the same process."""
    started = tmp_path / "started"
    async with own_bench(limit=1, calls_per_process=2) as bench:
        await bench.call("start_daemon", started=str(started), then="return")
        assert runs(int(started.read_text()))
        await bench.call("noop")
        await bench.call("noop")  # of the next process; the first one is gone, or this could not have begun
        assert not runs(int(started.read_text()))


async def test_call_that_waits_for_a_process_can_be_stopped(bench: Bench, tmp_path: Path) -> None:
    busy = [await bench.start("ignore_sigterm", tmp_path / f"started{number}") for number in range(2)]
    waiting = [bench.submit("echo", value=number) for number in range(3)]
    waiting[0].terminate()
    waiting[1].kill()
    assert [await _code(run) for run in waiting[:2]] == ["process.terminated", "process.killed"]
    busy[0].kill()
    assert await waiting[2].done == 2
    assert await _code(busy[0]) == "process.killed"
    busy[1].kill()
    assert await _code(busy[1]) == "process.killed"


async def _code(run: ProcessRun) -> str:
    with pytest.raises(StepFailure) as caught:
        await run.done
    return caught.value.code


# ── the pool ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_spare_is_there_for_the_next_call_with_its_modules_imported(bench: Bench, tmp_path: Path) -> None:
    first = await bench.start("wait_told", tmp_path / "started")
    await wait_until(lambda: bench.pool.ready == 1)
    spare = {pid for pid in bench.pool.pids if pid != first.pid}
    assert {(await bench.call("where"))["pid"]} == spare
    first.tell("enough")
    await first.done


async def test_process_is_replaced_after_its_calls() -> None:
    async with own_bench(calls_per_process=2, limit=3) as bench:
        pids = [(await bench.call("where"))["pid"] for _ in range(5)]
        assert pids[0] == pids[1]
        assert pids[2] == pids[3]
        assert len(set(pids)) == 3


async def test_idle_processes_end_but_for_one(tmp_path: Path) -> None:
    async with own_bench(idle_s=0.05, limit=3) as bench:
        runs = [await bench.start("wait_told", tmp_path / f"started{number}") for number in range(3)]
        for run in runs:
            run.tell("enough")
            await run.done
        await wait_until(lambda: len(bench.pool.pids) == 1)
        assert await bench.call("echo", value=1) == 1


async def test_close_ends_stuck_waiting_and_idle_calls(tmp_path: Path) -> None:
    bench = Bench(ProcessPool(limit=2))
    stuck = [await bench.start("ignore_sigterm", tmp_path / f"started{number}") for number in range(2)]
    waiting = bench.submit("noop")
    await bench.pool.close()
    assert [await _code(run) for run in (*stuck, waiting)] == ["process.killed", "process.killed", "process.closed"]
    assert await _code(bench.submit("noop")) == "process.closed"
    assert bench.pool.pids == []
    await bench.pool.close()


async def test_close_leaves_in_time_what_does_not_even_end_when_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a process that sits in the kernel: here SIGKILL does not reach it."""
    bench = Bench(ProcessPool(limit=1))
    stuck = await bench.start("ignore_sigterm", tmp_path / "started")
    pid, files = stuck.pid, open_files()
    assert pid is not None
    real_kill = os.killpg

    def refuse(group: int, number: int) -> None:
        if number == 0:
            real_kill(group, number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", refuse)
        async with asyncio.timeout(5):  # by default it would wait for twelve seconds
            await bench.pool.close(0.2)
        assert await _code(stuck) == "process.closed"
    assert bench.pool.pids == []
    assert f"processes [{pid}] do not end although they were killed, and are left" in caplog.messages
    await wait_until(lambda: not runs(pid))  # the warden has killed its group when the pool was closed
    assert open_files() < files, "nothing of it is open or looked at any more"


async def test_pool_that_was_never_used_starts_nothing() -> None:
    before = psutil.Process().children()
    pool = ProcessPool(limit=2)
    assert (pool.pids, pool.warden.pid, psutil.Process().children()) == ([], None, before)
    await pool.close()


async def test_warden_that_was_killed_is_replaced(bench: Bench) -> None:
    await bench.call("noop")
    first = bench.pool.warden.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await wait_until(lambda: not runs(first))
    await bench.failure("die", how="exit")
    assert bench.pool.warden.pid not in (None, first)


@linux
async def test_nothing_is_left_of_a_parent_that_was_killed(tmp_path: Path) -> None:
    place = tmp_path / "pids"
    command = [sys.executable, "-m", "tests.engine.process_parent", str(place)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: ASYNC220
    assert parent.stdout is not None
    await wait_until(lambda: place.exists() or parent.poll() is not None)
    group, warden, daemon = map(int, place.read_text().split())
    assert runs(daemon)
    assert sum(1 for _ in groups.members(group)) >= 4
    parent.kill()
    assert parent.wait() == -signal.SIGKILL
    assert parent.stdout.read() == b"__mp_main__\n"
    parent.stdout.close()
    await wait_until(lambda: not [state for _, state in groups.members(group) if state not in "ZX"])
    await wait_until(lambda: not runs(warden))
    assert not runs(daemon)


# ── spending ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_all_that_was_reported_before_a_kill_is_heard(bench: Bench, tmp_path: Path) -> None:
    run = bench.submit("spend", tokens=10, cost=0.1, then="die")
    with pytest.raises(StepFailure):
        await run.done
    assert bench.recorder.spent == [{"tokens": 9, "cost_nanos": 100_000_000}, {"tokens": 1}]


@pytest.mark.parametrize(("tokens", "cost_nanos"), [(-1, 0), (0, -1), (10**16, 0), (0, 10**19)])
async def test_amounts_that_no_component_can_have_reported_are_garbage(tokens: int, cost_nanos: int) -> None:
    reader: frames.FrameReader[frames.Reply] = frames.FrameReader(frames.Reply, frames.REPLY_BYTES)
    forged = frames.to_bytes(frames.Spend(1, tokens, cost_nanos))
    with pytest.raises(frames.Garbage):
        reader.feed(forged)
