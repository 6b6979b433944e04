"""What the audit process gives up before it opens a model. Linux, standard library only.

`leave_network` comes first of all, while the process has one thread. `confine` comes after everything is imported
and before anything of the job is read: resource limits, capabilities, no new privileges, Landlock, seccomp. Each layer that
the machine cannot give is left out and told; whether that is enough is decided by `check_layers`.
"""

import contextlib
import os
import resource
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from schemas.errors import Fault, SandboxTooWeak
from worker.engine.shortage import read_data_bytes
from worker.sandbox import capabilities, landlock, namespaces, seccomp
from worker.sandbox.kernel import PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, control
from worker.sandbox.places import list_rules

OPEN_FILES = 1024

SandboxMode = Literal["required", "best", "off"]
LAYERS: Final = ("no_new_privileges", "rlimits", "capabilities", "landlock", "seccomp", "namespaces")
REQUIRED: Final = LAYERS[:-1]
"""Without one of these a sandbox is too weak for models from strangers. seccomp denies what `namespaces` denies once more."""


@dataclass(frozen=True)
class Limits:
    """Upper bounds in bytes: memory that the audit may allocate, size of each file that it writes."""

    memory_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class Confinement:
    """What one audit may use. `inputs` are read, `scratch` is the one folder that is written."""

    limits: Limits
    inputs: tuple[Path, ...]
    scratch: Path
    accelerator: bool
    mode: SandboxMode


def tie_to_parent(parent: int) -> bool:
    """Return whether this process will die with the thread that started it; False when that one is gone already.

    The check comes after the call: a parent that died before it would never send the signal.
    """
    control(PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent


def leave_network(mode: SandboxMode, *, accelerator: bool) -> bool:
    """Leave the network's namespace where that is possible; not beside an accelerator, whose driver was never tried so."""
    return mode != "off" and not accelerator and namespaces.leave_network()


def confine(given: Confinement) -> dict[str, bool]:
    """Return which layers hold, having given up every means that reading and running a model does not need."""
    # `namespaces` is not among them: it was, or was not, left at the start.
    _limit_resources(given.limits)
    _prefer_for_the_memory_killer()
    guarded = given.mode != "off"
    layers = {"rlimits": True, "capabilities": guarded and capabilities.drop_all()}
    control(PR_SET_NO_NEW_PRIVS, 1)
    rules = list_rules(given.inputs, given.scratch, accelerator=given.accelerator)
    return layers | {
        "no_new_privileges": True,
        "landlock": guarded and landlock.restrict(rules),
        "seccomp": guarded and seccomp.install(accelerator=given.accelerator),
    }


def check_layers(layers: Mapping[str, bool], mode: SandboxMode) -> None:
    """Refuse to go on where the operator requires a sandbox and this one is too weak.

    Raises:
        SandboxTooWeak: naming every missing layer.
    """
    missing = [name for name in REQUIRED if not layers.get(name, False)]
    if mode == "required" and missing:
        raise SandboxTooWeak(*(describe_missing(name) for name in missing))


def describe_missing(layer: str) -> Fault:
    """Return what to say of a layer that this machine does not give."""
    return Fault(
        what=f"the sandbox lacks the layer {layer}",
        where="FAULTLINE_SANDBOX",
        expected=f"all of {', '.join(REQUIRED)}",
        got=f"no {layer} on this machine",
        advice="use Linux 5.13 or newer on x86-64 or ARM64, or set FAULTLINE_SANDBOX=best and audit only models you trust",
    )


def _limit_resources(limits: Limits) -> None:
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES)
    _lower(resource.RLIMIT_FSIZE, limits.file_bytes)
    # Data and not address space: accelerator drivers reserve far more addresses than they use. The imports are not the job's.
    _lower(resource.RLIMIT_DATA, read_data_bytes() + limits.memory_bytes)


def _lower(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (bound, bound))


def _prefer_for_the_memory_killer() -> None:
    # When the machine runs out of memory the kernel should end the audit, not the worker or the store.
    # A wish and no layer: where it cannot be written, the audit goes on.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
