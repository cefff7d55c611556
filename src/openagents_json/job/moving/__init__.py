"""Moving jobs between stores: as lines of JSON that any store can take in, and the jobs go on there."""

from openagents_json.job.moving.exporting import Exported, export_jobs
from openagents_json.job.moving.format import FORMAT
from openagents_json.job.moving.importing import Imported, Refusal, import_jobs

__all__ = ["FORMAT", "Exported", "Imported", "Refusal", "export_jobs", "import_jobs"]
