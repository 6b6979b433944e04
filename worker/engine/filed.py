"""Long corruptions that are kept wait in files: a search that keeps the worst ones holds none of them in memory."""

import tempfile
import weakref

import torch
from torch import Tensor

from worker.engine.corruption import LONG, Corruption, list_stretches


class Filed:
    """A corruption in a file without a name, in the folder for temporary files; the file goes with it."""

    def __init__(self, corruption: Corruption) -> None:
        self._size = corruption.numel()
        self._kind = corruption[:0]
        self._file = tempfile.TemporaryFile(prefix="faultline-corruption-")  # noqa: SIM115 - open as long as this lives
        weakref.finalize(self, self._file.close)
        for place in list_stretches(self._size):
            self._file.write(corruption[place].cpu().contiguous().numpy().data)

    def numel(self) -> int:
        """Return k."""
        return self._size

    def __getitem__(self, place: slice, /) -> Tensor:
        """Read a stretch of the corruption."""
        start, stop, _ = place.indices(self._size)
        found = torch.empty(stop - start, dtype=self._kind.dtype)
        self._file.seek(start * found.itemsize)
        self._file.readinto(found.numpy().data)
        return found.to(self._kind.device)


def file_away(corruption: Corruption) -> Corruption:
    """Return what keeps the corruption: a file where it is long, if there is room for one."""
    if corruption.numel() <= LONG or isinstance(corruption, Filed):
        return corruption
    try:
        return Filed(corruption)
    except OSError:
        return corruption
