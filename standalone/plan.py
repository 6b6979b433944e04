"""Which programs make up the deployment, and with which environment each starts."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from standalone.program import ProgramSpec
from storage.embedded import EmbeddedStore

ROOT = str(Path(__file__).resolve().parent.parent)
# -P: a folder of the user's that is called `worker` or `service` must not be taken for ours.
PYTHON = (sys.executable, "-P")


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


def find_programs(plan: Plan) -> tuple[ProgramSpec | None, list[ProgramSpec], ProgramSpec]:
    """Return the store (or None), the workers and the API."""
    search_path = [ROOT, *filter(None, [plan.environment.get("PYTHONPATH")])]
    environment = {
        **plan.environment,
        "REDIS_URL": plan.redis_url,
        "FAULTLINE_DATA_DIR": str(plan.data_dir),
        "PYTHONPATH": ":".join(search_path),
        "PYTHONUNBUFFERED": "1",
    }
    drain_s = float(plan.environment.get("FAULTLINE_DRAIN_S", "10"))
    api = (
        *(*PYTHON, "-m", "uvicorn", "service.app:create_app", "--factory", "--app-dir", ROOT, "--fd", str(plan.listener)),
        *("--timeout-graceful-shutdown", "5", "--log-level", "warning", "--no-access-log"),
    )
    # The worker bounds its own end: drain time, then ten seconds for giving the job back.
    workers = [
        ProgramSpec(f"worker-{i + 1}", (*PYTHON, "-m", "worker"), environment, plan.logs / f"worker-{i + 1}.log", drain_s + 12)
        for i in range(plan.workers)
    ]
    store = None
    if plan.store is not None:
        store = ProgramSpec(
            "store",
            tuple(plan.store.command),
            {"PATH": plan.environment.get("PATH", ""), "PYTHONPATH": ROOT},
            plan.logs / "store.log",
            10,
        )
    return store, workers, ProgramSpec("api", api, environment, plan.logs / "api.log", 8, (plan.listener,))
