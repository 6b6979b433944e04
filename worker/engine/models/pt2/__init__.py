"""torch.export archives (.pt2) as programs, by a reader of our own: PyTorch's unpickles and evaluates what is in the file."""

from worker.engine.models.pt2.archive import is_export_archive
from worker.engine.models.pt2.load import load_pt2
from worker.engine.models.pt2.reference import run_reference

__all__ = ["is_export_archive", "load_pt2", "run_reference"]
