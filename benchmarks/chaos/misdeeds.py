"""Everything that is done to the deployment; each leaves it whole again, a moment later."""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from benchmarks.chaos.processes import find_children, is_auditing
from benchmarks.chaos.rudeness import be_rude
from benchmarks.chaos.system import LEASE_S, System, freeze, stop_all, thaw
from standalone.program import Program

DOWN_S = (0.0, 1.0)
BUSY_SHARE, BUSY_WAIT_S = 0.7, 3.0
"""Share of misdeeds to workers that wait for one in the middle of an audit."""
CLOCK_STEPS_S = (-86400, -3600, -60, 60, 3600, 86400)
STORE_STEPS_S = (-2, 5, 60, 3600)
"""Leases are measured by the store's clock: when it goes back, a dead worker's lease lasts longer by as much."""

Misdeed = Callable[[System, random.Random], None]


def kill_worker(system: System, chance: random.Random) -> None:
    """End a worker at once, and start it again."""
    kill(choose_worker(system, chance), chance)


def kill_audits(system: System, chance: random.Random) -> None:
    """End a worker's audit processes, the busy one and the warm one."""
    for pid in find_children(choose_worker(system, chance).pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_store(system: System, chance: random.Random) -> None:
    """End the store at once, and start it again."""
    kill(system.store, chance)


def kill_api(system: System, chance: random.Random) -> None:
    """End one of the APIs at once, and start it again."""
    kill(chance.choice(system.apis), chance)


def freeze_past_lease(system: System, chance: random.Random) -> None:
    """Stop a worker for longer than its lease, and let it go on as if nothing had happened."""
    worker = choose_worker(system, chance)
    freeze(worker)
    time.sleep(LEASE_S + chance.uniform(0.5, 3))
    thaw(worker)


def freeze_and_kill(system: System, chance: random.Random) -> None:
    """Stop a worker that waits for a message, so that one is delivered to the dead, and end it."""
    worker = chance.choice(system.workers)
    freeze(worker)
    time.sleep(chance.uniform(0.5, LEASE_S))
    kill(worker, chance)


def fill_disk(system: System, chance: random.Random) -> None:
    """Leave the artifact store no room for a while."""
    system.disk.fill()
    system.sleep(chance.uniform(1, 4))
    system.disk.free()


def step_clock(system: System, chance: random.Random) -> None:
    """Step the wall clock of an API or a worker."""
    program = chance.choice([*system.apis, *system.workers])
    system.clocks.step(program.spec.name, chance.choice(CLOCK_STEPS_S))


def step_store_clock(system: System, chance: random.Random) -> None:
    """Step the clock that leases are measured by."""
    system.clocks.step(system.store.spec.name, chance.choice(STORE_STEPS_S))


def slow_store(system: System, chance: random.Random) -> None:
    """Hold every reply of the store back for a while."""
    system.proxy.delay_s = chance.choice([0.05, 0.3, 1.0])
    system.sleep(chance.uniform(1, 4))
    system.proxy.delay_s = 0.0


def cut_store(system: System, chance: random.Random) -> None:
    """Hang up on everybody who talks to the store, a few times."""
    for _ in range(chance.randint(1, 4)):
        system.proxy.cut()
        system.sleep(chance.uniform(0.05, 0.5))


def deploy(system: System, chance: random.Random) -> None:
    """Stop a worker as a deploy does, and start it again."""
    worker = choose_worker(system, chance)
    stop_all([worker])
    worker.start()


def break_connections(system: System, chance: random.Random) -> None:
    """Talk to the API as broken clients do."""
    be_rude(system.port, chance)


MISDEEDS: dict[str, tuple[Misdeed, int]] = {
    "kill worker": (kill_worker, 5),
    "kill audit": (kill_audits, 2),
    "kill store": (kill_store, 3),
    "kill api": (kill_api, 2),
    "freeze": (freeze_past_lease, 2),
    "freeze+kill": (freeze_and_kill, 2),
    "disk full": (fill_disk, 2),
    "clock": (step_clock, 2),
    "store clock": (step_store_clock, 1),
    "slow store": (slow_store, 2),
    "cut store": (cut_store, 2),
    "deploy": (deploy, 2),
    "rude client": (break_connections, 2),
}
"""Every misdeed by its name, with how often it is chosen, relative to the others."""


def find_possible(system: System) -> dict[str, tuple[Misdeed, int]]:
    """Return the misdeeds that this machine allows."""
    refused: set[str] = set()
    if not system.disk.is_real:
        refused |= {"disk full"}
    if not system.clocks.can_step:
        refused |= {"clock", "store clock"}
    return {name: entry for name, entry in MISDEEDS.items() if name not in refused}


def kill(program: Program, chance: random.Random) -> None:
    """End a program at once, and start it again after a moment."""
    program.kill()
    time.sleep(chance.uniform(*DOWN_S))
    program.start()


def choose_worker(system: System, chance: random.Random) -> Program:
    """Return a worker, mostly one in the middle of an audit."""
    busy = wait_for_busy_worker(system) if chance.random() < BUSY_SHARE else None
    return busy or chance.choice(system.workers)


def wait_for_busy_worker(system: System, limit_s: float = BUSY_WAIT_S) -> Program | None:
    """Return a worker in the middle of an audit, waiting a little for one."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        for worker in system.workers:
            if any(is_auditing(pid) for pid in find_children(worker.pid)):
                return worker
        system.sleep(0.02)
    return None
