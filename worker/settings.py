"""The worker's settings: one class, read from the environment, every problem reported at once."""

import os
import socket
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import SettingsConfigDict

from schemas.errors import Fault, InvalidRequest
from storage.doorbell import name_queue
from storage.urls import check_redis_url
from telemetry.environment import find_misspelt
from telemetry.settings import TelemetrySettings
from worker.confine import SandboxMode
from worker.fetching.limits import FetchLimits

MIB = 2**20
GIB = 2**30
Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]


def _check_url(value: str) -> str:
    try:
        return check_redis_url(value)
    except InvalidRequest as error:
        raise ValueError(str(error)) from None


class WorkerSettings(FetchLimits, TelemetrySettings):
    """Environment of `python -m worker`: REDIS_URL and FAULTLINE_<NAME IN CAPITALS>. docs/operations.md lists them."""

    model_config = SettingsConfigDict(
        env_prefix="FAULTLINE_", frozen=True, extra="ignore", allow_inf_nan=False, populate_by_name=True
    )

    redis_url: Annotated[str, AfterValidator(_check_url)] = Field(
        validation_alias="REDIS_URL", description="the job store and broker: redis://, rediss:// or unix://"
    )
    data_dir: Path = Field(default=Path("faultline-data"), description="artifacts and scratch folders")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="what the audits run on; also names the queue")
    threads: int = Field(default=1, ge=1, le=1024, description="CPU threads of one audit; part of every report")
    lease_s: Seconds = Field(default=10.0, description="a job whose worker is silent for so long goes to another")
    job_timeout_s: Seconds = Field(default=3600.0, description="wall-clock limit of one audit")
    deadline_grace_s: Seconds = Field(
        default=30.0, description="what an audit gets after its deadline to write down what it has measured"
    )
    job_memory_bytes: int = Field(default=0, ge=0, description="resident memory of one audit; 0: four fifths of what there is")
    job_output_bytes: int = Field(
        default=64 * MIB, ge=1024, description="all that the audit process may say, its result included"
    )
    job_scratch_bytes: int = Field(default=4 * GIB, ge=1024, description="all files of the audit process together")
    sandbox: SandboxMode = Field(
        default="best", description="required: refuse to work without every layer; best: use those there are; off: for tests"
    )
    retention_days: float = Field(default=90.0, ge=0, description="jobs and reports that ended so long ago go; 0: never")
    artifact_grace_s: float = Field(
        default=7 * 86400.0, ge=60, description="artifacts that no job needs and nobody has used for so long go"
    )
    upload_life_s: float = Field(default=86400.0, ge=1, description="uploads that nobody has gone on with for so long go")
    cleanup_s: float = Field(default=600.0, ge=1, description="how often one of the workers looks for what is to go")
    drain_s: float = Field(default=10.0, ge=0, le=86400, description="what a running audit gets to end after SIGTERM")
    log_audit_output: bool = Field(
        default=False, description="log all that a failed audit process wrote; values of the data may be among it"
    )
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        default=None, description="where Prometheus asks this worker; 0 takes a free one; without it nothing listens"
    )
    metrics_host: str = Field(default="127.0.0.1", description="the address of that port")

    @property
    def queue(self) -> str:
        """The Celery queue of this worker's device class."""
        return name_queue(self.device)

    @property
    def memory_bytes(self) -> int:
        """The memory limit of one audit in bytes."""
        return self.job_memory_bytes or find_memory_bytes() * 4 // 5

    @property
    def beat_s(self) -> float:
        """Seconds between two beats of the lease: three fit into one lease, and progress is never older than a second."""
        return min(self.lease_s / 3, 1.0)


def load_settings() -> WorkerSettings:
    """Return the settings of this process's environment.

    Raises:
        InvalidRequest: with one fault per variable that is missing, wrong or misspelt.
    """
    faults = [_describe_misspelt(name, near) for name, near in find_misspelt(os.environ).items()]
    try:
        settings = WorkerSettings()
    except ValidationError as error:
        wrong = [_describe(entry["loc"], entry["msg"], entry["input"]) for entry in error.errors()]
        raise InvalidRequest(*wrong, *faults) from None
    if faults:
        raise InvalidRequest(*faults)
    return settings


def _describe_misspelt(name: str, near: str) -> Fault:
    return Fault(what=f"{name} is no setting", where=name, expected=near, got=name, advice=f"did you mean {near}?")


def _describe(location: tuple[int | str, ...], message: str, given: object) -> Fault:
    field = str(location[0])
    name = field if field == "REDIS_URL" else f"FAULTLINE_{field.upper()}"
    missing = not isinstance(given, str)
    return Fault(
        what=f"{name}: {message.removeprefix('Value error, ')}",
        where=name,
        got="nothing" if missing else "a secret" if "secret" in field else str(given),
        advice="set it in the environment",
    )


@cache
def find_memory_bytes() -> int:
    """Return the memory that this machine or its control group has, whichever is less."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")]
    found = [text for path in limits if path.is_file() and (text := path.read_text().strip()).isdigit()]
    return min([physical, *map(int, found)])


def make_worker_name() -> str:
    """Return a name that no other worker has: host, pid and a random part."""
    return f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
