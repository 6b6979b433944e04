"""Seccomp: the system calls that this process may still make, for good, as a filter in the kernel's packet language.

Everything not named in syscalls.py is refused with EPERM. Six calls depend on their arguments: threads yes, processes no;
signals to this process only; no new owner for signals of descriptors; questions about terminals only. Addresses that
arguments point to cannot be read by a filter, so nothing here depends on them.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from worker.sandbox.kernel import call, find_machine
from worker.sandbox.syscalls import NUMBERS, OLD, SHARED

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; an argument has 8 bytes, the low half first
LOAD, EQUAL, ANY_BIT, LEAST, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
FOREIGN_NUMBERS = 0x40000000  # the x32 calls of x86-64
SET_FILTER, ALL_THREADS = 1, 1

CLONE_THREAD = 0x00010000
CLONE_NAMESPACES = 0x7E020080
DESCRIPTOR_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 1024, 1030, 1031, 1032, 1033, 1034)
"""fcntl: duplicate, flags, locks, pipe sizes, seals; not F_SETOWN and F_SETSIG, by which signals reach other processes."""
TERMINAL_QUESTIONS = (0x5401, 0x5413, 0x5421, 0x5450, 0x5451, 0x541B)
"""ioctl: what isatty, the window's size and close-on-exec ask for."""
THREAD_NAMES = (15, 16, 0x53564D41)
"""prctl: PR_SET_NAME, PR_GET_NAME, PR_SET_VMA; not the death signal."""

Instruction = bytes


@dataclass(frozen=True)
class Filter:
    """What of the machine decides the filter."""

    machine: str
    process: int
    accelerator: bool


def _write(code: int, value: int, if_true: int = 0, if_false: int = 0) -> Instruction:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _allow_values(number: int, argument: int, values: Iterable[int]) -> list[Instruction]:
    """Allow call `number` where the low half of an argument is one of `values`; EPERM otherwise."""
    tests = [part for value in values for part in (_write(EQUAL, value, 0, 1), _write(RETURN, ALLOW))]
    return _guard(number, [_write(LOAD, ARGUMENTS + 8 * argument), *tests, _write(RETURN, ERRNO | errno.EPERM)])


def _guard(number: int, body: list[Instruction]) -> list[Instruction]:
    """Run `body`, which always returns, for call `number` only."""
    return [_write(EQUAL, number, 0, len(body)), *body]


def _allow_threads(number: int) -> list[Instruction]:
    return _guard(
        number,
        [
            _write(LOAD, ARGUMENTS),
            _write(ANY_BIT, CLONE_NAMESPACES, 2, 0),
            _write(ANY_BIT, CLONE_THREAD, 0, 1),
            _write(RETURN, ALLOW),
            _write(RETURN, ERRNO | errno.EPERM),
        ],
    )


def assemble(given: Filter) -> list[Instruction]:
    """Return the filter's instructions.

    Raises:
        KeyError: for a machine whose numbers are not known.
    """
    numbers = NUMBERS[given.machine]
    foreign = [_write(LEAST, FOREIGN_NUMBERS, 0, 1), _write(RETURN, KILL)] if given.machine == "x86_64" else []
    plain = sorted(numbers[name] for name in SHARED | OLD if name in numbers)
    asking = _guard(numbers["ioctl"], [_write(RETURN, ALLOW)])
    if not given.accelerator:  # its driver is spoken to by ioctl; Landlock then says on which devices
        asking = _allow_values(numbers["ioctl"], 1, TERMINAL_QUESTIONS)
    return [
        _write(LOAD, ARCHITECTURE),
        _write(EQUAL, ARCHITECTURES[given.machine], 1, 0),
        _write(RETURN, KILL),
        _write(LOAD, NUMBER),
        *foreign,
        *(part for number in plain for part in _guard(number, [_write(RETURN, ALLOW)])),
        *_allow_threads(numbers["clone"]),
        # Its flags lie in memory, where no filter can see them; the C library then falls back to `clone`.
        *_guard(numbers["clone3"], [_write(RETURN, ERRNO | errno.ENOSYS)]),
        *_allow_values(numbers["tgkill"], 0, (given.process,)),
        *_allow_values(numbers["prlimit64"], 0, (0, given.process)),
        *_allow_values(numbers["prctl"], 0, THREAD_NAMES),
        *_allow_values(numbers["fcntl"], 1, DESCRIPTOR_COMMANDS),
        *asking,
        _write(RETURN, ERRNO | errno.EPERM),
    ]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def install(*, accelerator: bool) -> bool:
    """Filter the calls of all threads of this process for good, after no_new_privileges; False where that cannot be."""
    machine = find_machine()
    if machine not in NUMBERS:
        return False
    instructions = assemble(Filter(machine, os.getpid(), accelerator))
    content = ctypes.create_string_buffer(b"".join(instructions))
    program = _Program(len(instructions), ctypes.addressof(content))
    try:
        call(NUMBERS[machine]["seccomp"], SET_FILTER, ALL_THREADS, ctypes.byref(program))
    except OSError:
        return False
    return True
