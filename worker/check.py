"""`python -m worker --check`: attack this machine's sandbox as a hostile model would, and tell what stopped each attack."""

import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from schemas.errors import FaultlineError, WorkerFault
from schemas.problem import clean_text
from worker.confine import LAYERS, REQUIRED
from worker.deadline import Deadline
from worker.limits import JobLimits
from worker.messages import FailureMessage, JobMessage, ReadyMessage, StartedMessage
from worker.process import Child, ChildCrashed
from worker.sandbox.attacks.__main__ import BAIT, CALLS_GROUP, LAYERS_ONLY, SUCCEEDED
from worker.sandbox.attacks.bait import Bait, Trap, lay_bait
from worker.sandbox.attacks.calls import ALLOWED
from worker.sandbox.attacks.exhaustion import EXHAUSTION, X86_ONLY
from worker.sandbox.attacks.models import MODELS
from worker.sandbox.kernel import find_machine
from worker.settings import WorkerSettings
from worker.warm import build_child_spec
from worker.watch import observe_layers

MIB = 2**20
LIMITS = {"job_timeout_s": 3.0, "job_memory_bytes": 1024 * MIB, "job_output_bytes": 4 * MIB, "job_scratch_bytes": 32 * MIB}
"""Small, so that what runs until it is stopped is stopped soon."""


@dataclass(frozen=True)
class Row:
    """One attack: how it ended, and whether that is what should happen."""

    attack: str
    ending: str
    stopped: bool

    @property
    def outcome(self) -> str:
        """What to print."""
        if self.attack in ALLOWED:
            return "allowed" if self.stopped else "NOT ALLOWED"
        return "stopped" if self.stopped else "NOT STOPPED"


def check_sandbox(settings: WorkerSettings) -> int:
    """Attack, print the layers and one line per attack, and return the exit code: 0 when everything was stopped."""
    given = settings.model_copy(update=LIMITS)
    with tempfile.TemporaryDirectory(prefix="faultline-check-") as folder, lay_bait() as trap:
        layers, rows = run_attacks(given, trap, Path(folder))
    width = max(len(row.attack) for row in rows)
    for name in LAYERS:
        sys.stdout.write(f"{name:<{width}}  {'yes' if layers.get(name) else 'no'}\n")
    sys.stdout.write("\n")
    for row in rows:
        sys.stdout.write(f"{row.attack:<{width}}  {row.outcome}: {row.ending}\n")
    weak = [name for name in REQUIRED if not layers.get(name)]
    loose = [row for row in rows if not row.stopped]
    sys.stdout.write(f"\n{len(rows) - len(loose)} of {len(rows)} attacks stopped; missing layers: {', '.join(weak) or 'none'}\n")
    return 1 if loose or weak else 0


def find_layers(settings: WorkerSettings) -> dict[str, bool]:
    """Return which layers an audit process of this worker has, by confining one."""
    with tempfile.TemporaryDirectory(prefix="faultline-layers-") as folder:
        target = Path(folder) / "model"
        target.touch()
        return attack_once(LAYERS_ONLY, settings, Bait.aim_at_nothing(str(target)), Path(folder) / "scratch")[0]


def run_attacks(settings: WorkerSettings, trap: Trap, folder: Path) -> tuple[dict[str, bool], list[Row]]:
    """Return the layers that an audit process here has, and what became of every attack."""
    layers, error = attack_once(CALLS_GROUP, settings, trap.bait, folder / "calls")
    rows = [
        Row(fault.what, fault.got, (fault.got == SUCCEEDED) == (fault.what in ALLOWED))
        for fault in (error.faults if isinstance(error, FaultlineError) else ())
    ] or [Row("calls", str(error), stopped=False)]
    single = {**EXHAUSTION, **(X86_ONLY if find_machine() == "x86_64" else {}), **MODELS}
    for number, name in enumerate(single):
        _, error = attack_once(name, settings, trap.bait, folder / str(number))
        ending = describe_ending(error)
        rows.append(Row(name, ending, SUCCEEDED not in ending))
    return layers, [*rows, *find_damage(trap)]


def find_damage(trap: Trap) -> Iterator[Row]:
    """Yield what the attacks did in spite of everything: their own word is not taken for it."""
    for damage in trap.find_damage():
        yield Row(damage, "seen from outside", stopped=False)


def describe_ending(error: Exception) -> str:
    """Return in a few words what ended an attack."""
    if isinstance(error, FaultlineError):
        first = error.faults[0]
        return clean_text(first.got if error.code == "model_refused" else f"{error.code}: {first.got or first.what}", limit=100)
    return clean_text(str(error), limit=100)


def attack_once(group: str, settings: WorkerSettings, bait: Bait, scratch: Path) -> tuple[dict[str, bool], Exception]:
    """Start an audit process that attacks, watch it as the supervisor does, and return its layers and its end."""
    spec = build_child_spec(settings, os.environ)
    options = spec.command[spec.command.index("--parent") :]
    spec = replace(spec, command=(sys.executable, "-P", "-m", "worker.sandbox.attacks", group, *options))
    job = JobMessage(
        request={BAIT: bait.encode()},
        model_path=bait.model,
        data_path=bait.model,
        memory_bytes=settings.memory_bytes,
        file_bytes=settings.job_scratch_bytes,
    )
    child = Child(spec, scratch)
    layers: dict[str, bool] = {}
    limits: JobLimits | None = None
    try:
        while True:
            for message in child.receive(0.05):
                if isinstance(message, ReadyMessage):
                    child.send(job, 10)
                    limits = JobLimits(settings, child, Deadline(None))
                elif isinstance(message, StartedMessage):
                    layers = observe_layers(child.pid, message.layers)
                elif isinstance(message, FailureMessage):
                    return layers, message.to_error()
            if limits is not None:
                limits.check()
    except (ChildCrashed, FaultlineError, WorkerFault) as error:
        return layers, error
    finally:
        child.discard()
