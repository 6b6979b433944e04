"""A disk that can be filled: the artifact store on a small file system of its own, where this machine lets us mount one."""

import ctypes
import os
import subprocess
from contextlib import suppress
from pathlib import Path

CLONE_NEWNS = 0x00020000
SIZE_BYTES = 256 << 20
HOG = "hog"


class SmallDisk:
    """The folder `place` on a file system of 256 MiB. `is_real` is False where it could not be mounted."""

    def __init__(self, place: Path) -> None:
        self._place = place
        place.mkdir()
        self.is_real = _leave_mounts() and _mount(place)

    def fill(self) -> None:
        """Leave no byte free."""
        with suppress(OSError), (self._place / HOG).open("wb", buffering=0) as hog:
            for size in (1 << 20, 1 << 12):
                with suppress(OSError):
                    while hog.write(bytes(size)):
                        pass

    def free(self) -> None:
        """Give the room back."""
        with suppress(FileNotFoundError):
            (self._place / HOG).unlink()

    def unmount(self) -> None:
        """Let go of the file system."""
        if self.is_real:
            subprocess.run(["/bin/umount", "--lazy", str(self._place)], check=False)


def _leave_mounts() -> bool:
    """Give this process mounts of its own, so that they end with it however it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0 or libc.unshare(CLONE_NEWNS) != 0:
        return False
    return subprocess.run(["/bin/mount", "--make-rprivate", "/"], capture_output=True, check=False).returncode == 0


def _mount(place: Path) -> bool:
    command = ["/bin/mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES},mode=0700", "faultline-chaos", str(place)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
