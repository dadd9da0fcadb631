"""What Weights & Biases gets of a sweep or a study: figures, table, charts, pictures, summary and artifacts."""

from lightning_mm.tracking.record.artifacts import AdapterFiles, BaseFiles
from lightning_mm.tracking.record.content import SweepRecord
from lightning_mm.tracking.record.runs import PlannedRun, write_runs
from lightning_mm.tracking.record.write import write_record

__all__ = ["AdapterFiles", "BaseFiles", "PlannedRun", "SweepRecord", "write_record", "write_runs"]
