"""Attacks that go on until something stops them: the kernel, a limit of the process, or the supervisor."""

import ctypes
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from worker.sandbox.attacks.bait import Bait

BLOCK = 1 << 24
Attack = Callable[[Bait], object]

_hoard: list[object] = []


def use_memory(_bait: Bait) -> None:
    """Allocate without end."""
    while True:
        _hoard.append(bytearray(b"x") * BLOCK)


def use_shared_memory(_bait: Bait) -> None:
    """Use memory that a limit on data does not count."""
    while True:
        mapped = mmap.mmap(-1, BLOCK)
        mapped[:: mmap.PAGESIZE] = b"x" * (BLOCK // mmap.PAGESIZE)
        _hoard.append(mapped)


def fill_disk_with_one_file(_bait: Bait) -> None:
    """Write one file without end."""
    with Path("large").open("wb") as file:
        while True:
            file.write(bytes(1 << 20))


def fill_disk_with_many_files(_bait: Bait) -> None:
    """Write files without end."""
    number = 0
    while True:
        Path(f"file-{number}").write_bytes(bytes(1 << 20))
        number += 1


def open_files(_bait: Bait) -> None:
    """Use up descriptors."""
    while True:
        _hoard.append(os.open("/dev/null", os.O_RDONLY))


def start_threads(_bait: Bait) -> None:
    """Start threads without end."""
    while True:
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


def spin(_bait: Bait) -> None:
    """Compute without end."""
    while True:
        pass


def flood_output(_bait: Bait) -> None:
    """Write to the log without end."""
    while True:
        sys.stderr.write("x" * 65536)


def flood_protocol(_bait: Bait) -> None:
    """Write to the supervisor without end, on every descriptor there is."""
    while True:
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, b"x" * 65536)
            except OSError:
                continue


def crash(_bait: Bait) -> None:
    """Read where nothing is."""
    ctypes.string_at(0)


def call_as_32_bit(_bait: Bait) -> None:
    """Make system calls by the numbers of 32-bit programs, which a filter for 64-bit numbers would let through."""
    program = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    program.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20 (getpid); int 0x80; ret
    start = ctypes.addressof(ctypes.c_char.from_buffer(program))
    ctypes.CFUNCTYPE(ctypes.c_int)(start)()


EXHAUSTION: dict[str, Attack] = {
    "memory": use_memory,
    "shared memory": use_shared_memory,
    "one large file": fill_disk_with_one_file,
    "many files": fill_disk_with_many_files,
    "descriptors": open_files,
    "threads": start_threads,
    "computing without end": spin,
    "output without end": flood_output,
    "messages without end": flood_protocol,
    "crash": crash,
}
X86_ONLY: dict[str, Attack] = {"32-bit system calls": call_as_32_bit}
