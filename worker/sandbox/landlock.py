"""Landlock: the files that this process may reach, for good. Source: the kernel's userspace-api/landlock documentation.

A rule allows something below a folder, or on one file; what no rule allows is denied, whoever owns the process. It binds the
calling thread and those that it starts later, so `restrict` refuses to pretend where other threads run already.
"""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from worker.sandbox.kernel import call

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same numbers on every machine
VERSION_ONLY = 1
PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_DIR, MAKE_REGULAR = 1 << 7, 1 << 8
TRUNCATE, IOCTL_DEVICE = 1 << 14, 1 << 15
READ = READ_FILE | READ_DIR
SCRATCH = READ | WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REGULAR
DEVICE = READ_FILE | WRITE_FILE | IOCTL_DEVICE
ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE

ALL_TCP = 0b11
ABSTRACT_SOCKETS_AND_SIGNALS = 0b11
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many rights on files each version knows; from version 5 on there are 16."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scope", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


@dataclass(frozen=True)
class Rule:
    """What is allowed on `path` and below it; a path that does not exist allows nothing."""

    path: Path
    rights: int


def find_version() -> int:
    """Return the version of Landlock that the kernel has, 0 where it has none."""
    try:
        return call(CREATE_RULESET, 0, 0, VERSION_ONLY)
    except OSError:
        return 0


def restrict(rules: Sequence[Rule]) -> bool:
    """Allow what the rules allow and no other file, socket or signal, after no_new_privileges; False where that cannot be."""
    version = find_version()
    if version == 0 or len(list(Path("/proc/self/task").iterdir())) != 1:
        return False
    known = (1 << FILE_RIGHTS.get(version, 16)) - 1
    wanted = _Ruleset(known, ALL_TCP if version >= 4 else 0, ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = call(CREATE_RULESET, ctypes.byref(wanted), size, 0)
    try:
        for rule in rules:
            _add(ruleset, rule, known)
        call(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return True


def _add(ruleset: int, rule: Rule, known: int) -> None:
    with _opening(rule.path) as descriptor:
        if descriptor is not None:
            rights = rule.rights & known if rule.path.is_dir() else rule.rights & known & ON_FILES
            call(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(_PathBeneath(rights, descriptor)), 0)


@contextmanager
def _opening(path: Path) -> Iterator[int | None]:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)
