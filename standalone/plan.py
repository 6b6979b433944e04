"""Which programs make up the deployment, and with which environment each starts."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import Fault, InvalidRequest
from standalone.program import ProgramSpec
from storage.embedded import EmbeddedStore

ROOT = str(Path(__file__).resolve().parent.parent)
# -P: a folder of the user's that is called `worker` or `service` must not be taken for ours.
PYTHON = (sys.executable, "-P")
HOST = "127.0.0.1"
API_DRAIN_S = 5
STORE_STOP_S = 10.0


@dataclass(frozen=True)
class Plan:
    """What the command line and the environment ask for. `store` is None when REDIS_URL names one."""

    data_dir: Path
    workers: int
    listener: int
    environment: Mapping[str, str]
    store: EmbeddedStore | None

    @property
    def redis_url(self) -> str:
        """The store's address."""
        return self.environment["REDIS_URL"] if self.store is None else self.store.redis_url

    @property
    def logs(self) -> Path:
        """Where the programs' output goes."""
        return self.data_dir / "logs"


def plan_store(plan: Plan) -> list[ProgramSpec]:
    """Return the embedded store, or nothing when REDIS_URL names another."""
    if plan.store is None:
        return []
    environment = {"PATH": plan.environment.get("PATH", ""), "PYTHONPATH": ROOT}
    return [ProgramSpec("store", tuple(plan.store.command), environment, plan.logs / "store.log", STORE_STOP_S)]


def plan_workers(plan: Plan) -> list[ProgramSpec]:
    """Return the workers.

    Raises:
        InvalidRequest: when the drain time is no number.
    """
    # A worker bounds its own end: drain time, then ten seconds for giving the job back.
    stop_s, command, environment = _read_drain(plan) + 12, (*PYTHON, "-m", "worker"), _build_environment(plan)
    names = [f"worker-{i + 1}" for i in range(plan.workers)]
    return [ProgramSpec(name, command, environment, plan.logs / f"{name}.log", stop_s) for name in names]


def plan_api(plan: Plan) -> ProgramSpec:
    """Return the API, which answers on the listener that this process holds."""
    command = (*PYTHON, "-m", "service", "--fd", str(plan.listener))
    environment = _build_environment(plan) | {"FAULTLINE_HOST": HOST, "FAULTLINE_DRAIN_S": str(API_DRAIN_S)}
    return ProgramSpec("api", command, environment, plan.logs / "api.log", API_DRAIN_S + 3, (plan.listener,))


def _build_environment(plan: Plan) -> dict[str, str]:
    given = plan.environment
    search_path = ":".join([ROOT, *filter(None, [given.get("PYTHONPATH")])])
    ours = {"REDIS_URL": plan.redis_url, "FAULTLINE_DATA_DIR": str(plan.data_dir), "PYTHONPATH": search_path}
    return {**given, **ours, "PYTHONUNBUFFERED": "1"}


def _read_drain(plan: Plan) -> float:
    given = plan.environment.get("FAULTLINE_DRAIN_S", "10")
    try:
        return float(given)
    except ValueError:
        fault = Fault(what="FAULTLINE_DRAIN_S is no number of seconds", where="FAULTLINE_DRAIN_S", got=given)
        raise InvalidRequest(fault) from None
