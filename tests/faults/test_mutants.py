"""Each weakened build turns its named test red, and that test is green without it: the guards are there, and the tests
would notice if they were not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.mutants import MUTANTS, NAMES_VARIABLE, REPORT_VARIABLE, Mutant
from tests.faults.sizes import Hits, is_whole, sized
from tests.simulation.script import WINDOWS, play
from tests.simulation.world import World

ROOT = Path(__file__).resolve().parents[2]
SAFETY_S = 400.0
SEEDS = sized(40, 6_000)  # the simulation gets so many to notice a mutant; the rarest takes about one of 1,000
FIRST_SEED = 1_000
NOTICED = [one for one in MUTANTS if one.simulation_notices in (("soon", "late") if is_whole() else ("soon",))]


def outcomes(folder: Path, mutants: str) -> dict[str, str]:
    """The named tests, run in a process of their own with these mutants: the type of each error, or ""."""
    report = folder / "report"
    settings = {NAMES_VARIABLE: mutants, REPORT_VARIABLE: str(report)}
    tests = [mutant.test for mutant in MUTANTS]
    how = ["-q", "-p", "tests.faults.mutants", "-p", "no:cacheprovider", "--timeout", "60"]
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", *how, *tests],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=SAFETY_S,
    )
    assert report.exists(), answer.stdout + answer.stderr
    return dict(json.loads(line) for line in report.read_text(encoding="utf-8").splitlines())


@pytest.fixture(scope="module")
def as_it_is(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return outcomes(tmp_path_factory.mktemp("as_it_is"), "")


@pytest.fixture(scope="module")
def weakened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return outcomes(tmp_path_factory.mktemp("weakened"), ",".join(mutant.name for mutant in MUTANTS))


@pytest.mark.timeout(2 * SAFETY_S)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_named_test_is_red_with_the_mutant_and_green_without(
    mutant: Mutant, as_it_is: dict[str, str], weakened: dict[str, str]
) -> None:
    assert as_it_is[mutant.test] == "", "the control"
    assert weakened[mutant.test] == "AssertionError"


@pytest.mark.timeout(SAFETY_S)
@pytest.mark.parametrize("mutant", NOTICED, ids=lambda mutant: mutant.name)
def test_simulation_notices_the_mutant(mutant: Mutant) -> None:
    """The same seeds are green without it: the campaign of the simulation is the control."""
    with pytest.MonkeyPatch.context() as patch:
        mutant.weaken(patch)
        for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
            if found := what_is_wrong(seed):
                print(f"{mutant.name}: seed {seed}, the {seed - FIRST_SEED + 1}th: {found}")
                return
    pytest.fail(f"{SEEDS} seeds did not notice it")


def what_is_wrong(seed: int) -> str:
    """What the laws say of a seed, or how it breaks off; empty if all is well."""
    try:
        found = World(seed, Hits(WINDOWS)).run(play).wrong
    except Exception as error:  # a history that cannot even be folded
        return repr(error)[:200]
    return found[0] if found else ""
