"""The deployment that is mistreated: a store behind a slow proxy, two APIs on one port, workers."""

import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.chaos.clocks import Clocks
from benchmarks.chaos.disk import SmallDisk
from benchmarks.chaos.store_proxy import StoreProxy
from standalone.plan import Plan, plan_api, plan_store, plan_workers
from standalone.program import Program, ProgramSpec
from storage.embedded import EmbeddedStore, find_server

APIS = 2
LEASE_S = 3.0
SETTINGS = {"FAULTLINE_LEASE_S": f"{LEASE_S:g}", "FAULTLINE_DRAIN_S": "2", "FAULTLINE_LOG_LEVEL": "WARNING"}


class System:
    """Programs as the one-command deployment plans them, on this thread."""

    def __init__(self, folder: Path, workers: int, listener: socket.socket) -> None:
        folder.mkdir()
        self.port: int = listener.getsockname()[1]
        self.clocks = Clocks(folder / "clocks")
        self.disk = SmallDisk(folder / "artifacts")
        store = EmbeddedStore(find_server(), folder / "store")
        self.proxy = StoreProxy(folder / "slow.sock", store.socket)
        environment = {**os.environ, **SETTINGS}
        plan = Plan(folder, workers, listener.fileno(), {**environment, "REDIS_URL": self.proxy.redis_url}, None)
        plan.logs.mkdir()
        (store_spec,) = plan_store(replace(plan, store=store))
        self.store_url = store.redis_url
        self.store = Program(self._with_clock(store_spec))
        self.apis = [Program(self._with_clock(replace(plan_api(plan), name=f"api-{i + 1}"))) for i in range(APIS)]
        self.workers = [Program(self._with_clock(spec)) for spec in plan_workers(plan)]

    @property
    def programs(self) -> list[Program]:
        """All of them in the order of their start."""
        return [self.store, *self.apis, *self.workers]

    def start(self) -> None:
        """Start everything; what needs the store waits for it."""
        self.proxy.start()
        for program in self.programs:
            program.start()

    def tend(self) -> None:
        """Start again what has died by itself."""
        for program in self.programs:
            program.tend()

    def sleep(self, seconds: float) -> None:
        """Wait, and keep everything running meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.tend()
            time.sleep(min(left, 0.01))

    def stop(self) -> None:
        """Stop in order: APIs, workers, store."""
        for group in (self.apis, self.workers, [self.store]):
            stop_all(group)
        self.proxy.stop()

    def _with_clock(self, spec: ProgramSpec) -> ProgramSpec:
        log = spec.log.with_name(f"{spec.name}.log")
        return replace(spec, environment={**spec.environment, **self.clocks.environment(spec.name)}, log=log)


def stop_all(programs: list[Program]) -> None:
    """Ask all of them to stop, and end those that do not."""
    for program in programs:
        program.ask_to_stop()
    for program in programs:
        if not program.wait(program.spec.stop_s):
            program.kill()


def freeze(program: Program) -> None:
    """Stop a program where it stands; it does not know."""
    if program.pid is not None:
        os.kill(program.pid, signal.SIGSTOP)


def thaw(program: Program) -> None:
    """Let a frozen program go on."""
    if program.pid is not None:
        os.kill(program.pid, signal.SIGCONT)
