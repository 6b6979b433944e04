"""The files that an audit process may reach: libraries to read, the job's inputs to read, its own folder to write."""

import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from worker.sandbox.landlock import DEVICE, READ, READ_FILE, SCRATCH, WRITE_FILE, Rule

SYSTEM = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime")
MACHINE = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/vmstat", "/sys/devices/system", "/sys/fs/cgroup")
"""What libraries and the engine ask about processors and memory. /proc as a whole shows other processes."""
SOURCES = ("/dev/zero", "/dev/random", "/dev/urandom")
OUR_PACKAGES = ("schemas", "gate", "storage", "worker")
ACCELERATOR = ("/usr/local/cuda", "/proc/driver/nvidia", "/proc/modules", "/sys/bus/pci", "/sys/class/drm", "/sys/module/nvidia")
ACCELERATOR_DEVICES = "nvidia*"


def list_rules(inputs: Iterable[Path], scratch: Path, *, accelerator: bool) -> list[Rule]:
    """Return what the process may reach."""
    readable = [*map(Path, (*SYSTEM, *MACHINE, *SOURCES)), *_find_libraries(), *_find_our_packages()]
    rules = [Rule(path, READ) for path in readable]
    rules += [Rule(path, READ) for path in inputs]
    rules += [Rule(scratch, SCRATCH), Rule(Path("/dev/null"), READ_FILE | WRITE_FILE)]
    if accelerator:
        rules += [Rule(Path(path), READ) for path in ACCELERATOR]
        rules += [Rule(path, DEVICE) for path in Path("/dev").glob(ACCELERATOR_DEVICES) if not path.is_dir()]
        rules += [Rule(path, DEVICE) for path in Path("/dev/nvidia-caps").glob("*")]
    return rules


def _find_libraries() -> Iterator[Path]:
    """Yield where Python and what is installed for it stand. A folder of the search path may hold anything else as well."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    yield from {Path(sysconfig.get_path(name)) for name in names}
    yield from map(Path, site.getsitepackages())
    yield Path(sys.base_prefix) / "lib"
    yield Path(sys.prefix) / "lib"


def _find_our_packages() -> Iterator[Path]:
    for name in OUR_PACKAGES:
        module = sys.modules.get(name)
        if module is not None and module.__file__ is not None:
            yield Path(module.__file__).parent
