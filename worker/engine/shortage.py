"""Memory that ran out: how it shows in exceptions, and how much there is. Without torch, which is imported later."""

import errno
import re
import resource
from pathlib import Path

from schemas.errors import FaultlineError

GIB = 2**30
PAGE = resource.getpagesize()
SIGNS = ("can't allocate memory", "bad_alloc", "Failed to allocate", "out of memory")
"""What torch's CPU allocator, ONNX Runtime's arena and CUDA say in plain runtime errors."""
UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": GIB}


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out, on the CPU or on an accelerator; what an error was raised from counts as well."""
    return any(map(_shows_shortage, _list_causes(error)))


def _shows_shortage(error: BaseException) -> bool:
    if isinstance(error, OSError | FaultlineError):  # the text of ours names what stands in files
        return isinstance(error, OSError) and error.errno == errno.ENOMEM
    # torch's own class is a RuntimeError; the runtime's classes are not.
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in SIGNS)


def _list_causes(error: BaseException) -> list[BaseException]:
    return [error, *([] if error.__cause__ is None else _list_causes(error.__cause__))]


def read_wanted_bytes(error: BaseException) -> int:
    """Return how much the failing allocation asked for, 0 where no message tells.

    >>> read_wanted_bytes(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes."))
    4096
    >>> read_wanted_bytes(RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ..."))
    21474836480
    """
    told = " ".join(map(str, _list_causes(error)))
    found = re.search(r"(?:allocate|requested buffer of size) ([0-9.]*[0-9]) ?(KiB|MiB|GiB|)", told)
    return int(float(found[1]) * UNITS[found[2]]) if found else 0


def read_data_bytes() -> int:
    """Return how much data this process has mapped, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * PAGE


def find_free_bytes() -> int:
    """Return how much this process can still allocate: what its own limits and the machine leave, whichever is less."""
    used = {resource.RLIMIT_DATA: read_data_bytes(), resource.RLIMIT_AS: _read_mapped_bytes()}
    limits = {kind: resource.getrlimit(kind)[0] for kind in used}
    left = [limit - used[kind] for kind, limit in limits.items() if limit != resource.RLIM_INFINITY]
    return max(0, min([*left, _read_available_bytes()]))


def _read_mapped_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * PAGE


def _read_available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def show_gib(size_bytes: float) -> str:
    """Return a size in words.

    >>> show_gib(1.5 * 2**30)
    '1.5 GiB'
    """
    return f"{size_bytes / GIB:.3g} GiB"
