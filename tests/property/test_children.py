"""Laws of jobs with children: whatever happens to any of them, and in whatever order they hear of each other, a job is
PAUSED or final only when its attached children are."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import settings as hypothesis_settings

from openagents_json.job.machine import Interrupted, Requested, Verb, fold
from openagents_json.job.model import JobStatus
from tests.property.test_machine import INPUTS, SEEDS, SETTINGS, TURNS, VERBS, Tape, answer_to, workflows
from tests.unit.machine.drive import call, reloaded
from tests.unit.machine.family import Family, Member

ASKED: tuple[Verb, ...] = (*VERBS, "pause", "pause", "resume", "resume")
CALLS = [call("a"), call("b")]
CLOSE: dict[str, Any] = {  # nothing here fails by itself, so that it is paused and resumed for long
    "parent": {
        "steps": [{"id": "sub", "workflow": "child"}, call("own", needs=[]), {"id": "again", "workflow": "child"}],
        "finally": [{"id": "end", "workflow": "grand"}],
    },
    "child": {"steps": [call("x"), {"id": "deep", "workflow": "grand"}], "finally": [call("z")]},
    "grand": CALLS,
}
MOST_MEMBERS = 40  # a family that is larger only ends


class Lives(Family):
    """A family to which anything may happen."""

    def __init__(self, documents: dict[str, Any], tape: Tape) -> None:
        super().__init__(documents, INPUTS)
        self.tape = tape

    def live_on(self) -> None:
        """Until the tape is over."""
        while self.tape and len(self.members) < MOST_MEMBERS:
            left = [one for one in self.members.values() if not one.state.is_final]
            if not left:
                return
            self._happen(left[self.tape.below(len(left))])
            self.check()

    def _happen(self, member: Member) -> None:
        tape, choice = self.tape, self.tape.below(16)
        self.now_us += [0, 1, 1_000_000, 90_000_000][tape.below(4)]
        if choice < 3:
            heard = [job_id for job_id, inbox in self.inboxes.items() if inbox]
            if heard:
                self.deliver(heard[tape.below(len(heard))])
        elif choice in (3, 14, 15):
            arguments = {"force": tape.below(3) == 0, "priority": ["LOW", "HIGH"][tape.below(2)]}
            member.turn(Requested(ASKED[tape.below(len(ASKED))], "somebody", None, arguments))
        elif choice == 4:
            member.state = reloaded(member.state) if tape.below(2) else fold(member.plan, member.history)
        elif choice == 5:
            member.turn(Requested("signal", arguments={"name": "go", "payload": 1}))
        elif member.status == JobStatus.QUEUED:
            member.claim()
        elif choice == 6 and member.status == JobStatus.RUNNING and member.state.deaths < 2:
            member.releasing = None
            member.turn(Interrupted("worker-1"))  # fewer than end the job: then its children are not waited for
        elif choice == 7 and member.status == JobStatus.RUNNING:
            member.release()
        elif choice in (8, 9) or not member.running:
            member.tick()
        else:
            self._answer(member, member.running[tape.below(len(member.running))])

    def _answer(self, member: Member, path: str) -> None:
        choice = self.tape.below(4)
        if choice == 0:
            member.turn(member.failed(path, "fatal", retryable=False))
        elif path in member.told or member.releasing:
            member.stop(path)
        else:
            member.succeed(path, answer_to(path))

    def end(self) -> None:
        """Answer everything, of all of them, until they are final."""
        for _ in range(TURNS):
            if job_id := next((job_id for job_id, inbox in self.inboxes.items() if inbox), None):
                self.deliver(job_id)
            else:
                left = [one for one in self.members.values() if not one.state.is_final]
                if not left:
                    return
                went_on = [self._goes_on(one) for one in left]
                if not any(went_on):
                    self._let_time_pass(left)
            self.check()
        raise AssertionError(f"it does not end: {self.statuses()}")

    def _goes_on(self, member: Member) -> bool:
        state = member.state
        if member.status == JobStatus.QUEUED:
            member.claim()
        elif (member.status == JobStatus.PAUSED or state.pause_requested) and state.parent_pause is None:
            member.resume()
        elif member.running:
            path = member.running[0]
            member.turn(member.stopped(path) if path in member.told else member.succeeded(path, answer_to(path)))
        elif state.in_doubt:
            arguments = {"path": next(iter(state.in_doubt)), "how": "output", "output": 1}
            member.turn(Requested("resolve_step", arguments=arguments))
        elif state.awaiting:
            member.turn(Requested("signal", arguments={"name": next(iter(state.awaiting)), "payload": 1}))
        else:
            return False
        return True

    def _let_time_pass(self, left: list[Member]) -> None:
        due = [one.state.next_due() for one in left]
        self.now_us = max(self.now_us, min((entry[0] for entry in due if entry is not None), default=0))
        for member in left:
            if not member.state.is_final:
                member.tick()


@hypothesis_settings(SETTINGS, max_examples=150)
@given(workflows(children=("child", "grand")), workflows(children=("grand",)), workflows(), SEEDS)
def test_job_is_paused_or_final_only_when_its_children_are(
    parent: dict[str, Any], child: dict[str, Any], grand: dict[str, Any], seed: int
) -> None:
    lives = Lives({"parent": parent, "child": child, "grand": grand}, Tape(seed))
    lives.live_on()
    lives.end()


@hypothesis_settings(SETTINGS, max_examples=400)
@given(SEEDS)
def test_family_that_is_paused_and_resumed_again_and_again_says_the_truth(seed: int) -> None:
    lives = Lives(CLOSE, Tape(seed))
    lives.live_on()
    lives.end()
