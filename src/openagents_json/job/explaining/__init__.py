"""Why a job is not running, when it will be, and why it began when it did.

`gathering` asks the store, `blockers` and `past` say what the answers mean, `model` is what comes out.
"""

from openagents_json.job.explaining.gathering import explain_job
from openagents_json.job.explaining.model import Blocker, Estimate, Explanation, Overtaker, Score, Stay

__all__ = ["Blocker", "Estimate", "Explanation", "Overtaker", "Score", "Stay", "explain_job"]
