"""Steps in processes: a pool of warm subprocesses, each in a session of its own, that can be killed at any time."""

from openagents_json.job.engine.processes.frames import LogLine
from openagents_json.job.engine.processes.pool import ProcessPool
from openagents_json.job.engine.processes.run import Output, ProcessCall, ProcessRun

__all__ = ["LogLine", "Output", "ProcessCall", "ProcessPool", "ProcessRun"]
