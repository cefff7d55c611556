"""Looking after stores of every kind: whether what is in them fits together."""

from openagents_json.job.upkeep.checking import Checked, check_store

__all__ = ["Checked", "check_store"]
