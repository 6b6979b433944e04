"""Regions: the bytes of one file, which may be a member of an archive that is stored in it as it is."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

from schemas.errors import DataUnreadable, Fault


@dataclass(frozen=True)
class Region:
    """`size` bytes of a file from `offset` on. name: what faults call it."""

    path: Path
    offset: int
    size: int
    name: str = ""

    @classmethod
    def of(cls, path: Path) -> "Region":
        """Return a whole file."""
        return cls(path, 0, path.stat().st_size)

    def open(self) -> BinaryIO:
        """Return a file over the region, to be closed by the caller."""
        if self.offset == 0 and self.size == self.path.stat().st_size:
            return self.path.open("rb")
        return cast("BinaryIO", io.BufferedReader(_RegionFile(self)))

    def read(self, size: int = -1) -> bytes:
        """Return the first `size` bytes, or all."""
        with self.open() as file:
            return file.read(size)

    def within(self, offset: int, size: int, name: str) -> "Region":
        """Return a part of the region.

        Raises:
            DataUnreadable: when it would lie outside.
        """
        if offset < 0 or size < 0 or offset + size > self.size:
            refuse_data(f"{name!r} reaches beyond the end of the file", f"at most {self.size} bytes", f"{offset} + {size} bytes")
        return Region(self.path, self.offset + offset, size, name)


class _RegionFile(io.RawIOBase):
    """A read-only file over a region."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._file = region.path.open("rb", buffering=0)
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._region.size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        room = memoryview(buffer)[: max(0, self._region.size - self._place)]
        self._file.seek(self._region.offset + self._place)
        count = self._file.readinto(room)
        self._place += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def refuse_data(what: str, expected: str = "", got: str = "", advice: str = "", where: str = "/data") -> NoReturn:
    """Raise DataUnreadable for a data file that is damaged or not what its format says."""
    raise DataUnreadable(
        Fault(what, where, expected, got, advice or "write the file again and check that the upload is complete")
    )
