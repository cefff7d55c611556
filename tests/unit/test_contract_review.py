"""The contract review example, the one of the language's design, runs as written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.contract_review.components import REPORTS, app
from openagents_json import JobManager, JobStatus
from openagents_json.workflow import MappingSecrets

DEFINITION = Path(__file__).parents[2] / "examples/contract_review/review.json"
CONTRACT = "Lease\n\nThe tenant pays monthly.\n\nThe tenant shall indemnify the owner.\n"


@pytest.fixture
def contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lease.txt").write_text(CONTRACT)
    return "lease.txt"


@pytest.mark.parametrize("approved", [True, False])
async def test_risky_contract_is_reported_once_a_person_has_approved(contract: str, approved: bool) -> None:
    secrets = MappingSecrets({"LLM_KEY": "k"})
    async with JobManager("memory", components=app.components, secrets=secrets, resources=app.resources) as jobs:
        jobs.workflows.register(DEFINITION)
        job_id = await jobs.create_job("contract-review", {"path": contract})
        await jobs.signal(job_id, "approval", {"approved": approved})  # an early signal waits for its step
        await jobs.start_job(job_id)
        job = await jobs.wait(job_id, timeout_s=20)
        if approved:
            assert job.status is JobStatus.COMPLETED
            results = await jobs.get_job_results(job_id)
            report = REPORTS / f"{results['report']['id']}.md"
            assert "indemnify" in report.read_text() and "monthly" not in report.read_text()
        else:
            assert job.status is JobStatus.FAILED
            assert json.dumps([error["type"] for error in job.errors]) == '["review.rejected"]'
            assert not REPORTS.exists()
