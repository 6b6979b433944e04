"""Deployment: starts store, API and workers, keeps them running, and stops them in the right order."""

import http.client
import sys
import time
from collections.abc import Callable

import redis

from schemas.errors import Fault, Unavailable
from standalone.plan import Plan, plan_api, plan_store, plan_workers
from standalone.program import Program
from storage.connection import connect

TICK_S = 0.05
STORE_LIMIT_S = 120.0
"""A store with a long append-only file takes a while to read it."""
READY_LIMIT_S = 120.0
DEATHS_AT_START = 3


class Deployment:
    """Store, workers and API as programs of this process; run it on the main thread, which outlives the others."""

    def __init__(self, plan: Plan, port: int, stop_requests: Callable[[], int]) -> None:
        plan.logs.mkdir(exist_ok=True)
        self._plan = plan
        self._port = port
        self._stop_requests = stop_requests
        self._stores = [Program(spec) for spec in plan_store(plan)]
        self._workers = [Program(spec) for spec in plan_workers(plan)]
        self._api = Program(plan_api(plan))

    @property
    def _all(self) -> list[Program]:
        return [*self._stores, self._api, *self._workers]

    def run(self, on_ready: Callable[[], None]) -> None:
        """Run until a stop is asked for.

        Raises:
            Unavailable: when a part does not come up.
        """
        try:
            for program in self._stores:
                program.start()
            if not self._wait_for(self._is_store_up, STORE_LIMIT_S, "the store"):
                return
            for program in (self._api, *self._workers):
                program.start()
            if not self._wait_for(self._is_ready, READY_LIMIT_S, "API and worker"):
                return
            on_ready()
            while not self._stop_requests():
                self._tend_all()
                time.sleep(TICK_S)
        finally:
            self._stop_all()

    def _wait_for(self, is_up: Callable[[], bool], limit_s: float, what: str) -> bool:
        """Return whether it came up; False when a stop was asked for meanwhile."""
        deadline = time.monotonic() + limit_s
        while not self._stop_requests():
            self._tend_started()
            if is_up():
                return True
            if time.monotonic() > deadline:
                raise Unavailable(Fault(what=f"{what} did not get ready within {limit_s:g} s", advice=f"see {self._plan.logs}"))
            time.sleep(TICK_S)
        return False

    def _is_store_up(self) -> bool:
        client = connect(self._plan.redis_url, retries=0)
        try:
            return bool(client.ping())
        except redis.RedisError:  # not there yet, or still reading its file
            return False
        finally:
            client.close()

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _tend_started(self) -> None:
        """Keep what was started running, and give up on a part that keeps dying.

        Raises:
            Unavailable: with the end of its log.
        """
        for program in self._all:
            if program.was_started and program.tend() is not None and program.deaths >= DEATHS_AT_START:
                what = f"{program.spec.name} does not start; its log ends with:\n{program.read_log_tail()}"
                raise Unavailable(Fault(what=what, where=str(program.spec.log)))

    def _tend_all(self) -> None:
        for program in self._all:
            code = program.tend()
            if code is not None:
                sys.stderr.write(
                    f"faultline: {program.spec.name} ended with {code} and is started again; see {program.spec.log}\n"
                )

    def _stop_all(self) -> None:
        """API first, so that nothing new comes; then the workers, which may give jobs back; the store last."""
        for group in ([self._api], self._workers, self._stores):
            for program in group:
                program.ask_to_stop()
            for program in group:
                self._wait_or_kill(program)

    def _wait_or_kill(self, program: Program) -> None:
        deadline = time.monotonic() + program.spec.stop_s
        while not program.wait(TICK_S):
            if time.monotonic() > deadline or self._stop_requests() > 1:  # a second Ctrl-C: at once
                program.kill()
