"""The API's settings: one class, read from the environment, every problem told at once."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_settings import SettingsConfigDict

from schemas.errors import InvalidRequest
from service.browsers import is_loopback
from storage.sources.hooks import WebhookRules
from storage.urls import check_redis_url
from telemetry.environment import find_misspelt
from telemetry.settings import TelemetrySettings

MIB = 1024 * 1024


class BadSettings(Exception):
    """The environment does not describe a service that can start."""


def _check_address(value: str) -> str:
    try:
        return check_redis_url(value)
    except InvalidRequest as error:
        raise ValueError(str(error)) from None


class TenantLimits(BaseModel):
    """What one tenant may ask for, where it differs from what all may; what is left out does not differ."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    highest_priority: Annotated[int, Field(ge=0, le=9)] | None = None
    max_running: Annotated[int, Field(ge=0)] | None = None
    max_live_jobs: Annotated[int, Field(ge=0)] | None = None
    requests_per_s: Annotated[float, Field(ge=0, le=100_000)] | None = None
    requests_burst: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class Limits(NamedTuple):
    """What a tenant may ask for; the settings of the same names say what it means."""

    highest_priority: int
    max_running: int
    max_live_jobs: int
    requests_per_s: float
    requests_burst: int


def _read_empty(value: object) -> object:
    """Return None for an empty variable, as an image has that was built without an argument."""
    return value or None


class Settings(WebhookRules, TelemetrySettings):
    """Environment of the API process; docs/http.md lists every variable."""

    model_config = SettingsConfigDict(
        env_prefix="FAULTLINE_", frozen=True, use_attribute_docstrings=True, populate_by_name=True, extra="ignore"
    )

    redis_url: Annotated[str, AfterValidator(_check_address), Field(validation_alias="REDIS_URL")]
    """Broker and job store: redis://host:port/0, rediss://... or unix:///path/to/socket."""

    data_dir: Path = Path("faultline-data")
    """Folder of the artifact store; workers need the same."""

    host: str = "127.0.0.1"
    """Address to listen on. With any other than a loopback address, every call needs a key unless `auth` says otherwise."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8321
    """Port to listen on; 0 takes a free one and the ready line says which."""

    auth: Literal["auto", "required", "off"] = "auto"
    """auto: keys are needed unless the service listens on this machine only; required: always; off: never."""

    audit_log_entries: Annotated[int, Field(ge=100)] = 100_000
    """Entries of the audit log that are kept of each tenant, some 300 bytes of the store's memory each."""

    max_live_jobs: Annotated[int, Field(ge=0)] = 10_000
    """Most jobs of a tenant that are queued or running together; 0: any number. Without keys there is no limit."""

    requests_per_s: Annotated[float, Field(ge=0, le=100_000)] = 500.0
    """Calls a second that a tenant's keys may make together, in the long run; 0: any number. Without keys there is no limit."""

    requests_burst: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Calls that a tenant which has been quiet may make at once."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Class of device that audits run on unless they ask for another; workers of this class must be there."""

    devices: tuple[Literal["cpu", "cuda"], ...] = ()
    """Further classes that workers are there for, such as ["cuda"]; a request for any other is refused."""

    highest_priority: Annotated[int, Field(ge=0, le=9)] = 0
    """Best priority that a request may ask for; 0 is served first."""

    max_running: Annotated[int, Field(ge=0)] = 0
    """Most jobs of one tenant that run at once; 0: any number. It holds for jobs accepted from then on."""

    tenants: dict[str, TenantLimits] = {}
    """Tenants with limits of their own: {"acme": {"highest_priority": 3, "max_running": 2}}."""

    max_upload_bytes: Annotated[int, Field(ge=1)] = 4096 * MIB
    """Largest artifact."""

    quota_bytes: Annotated[int, Field(ge=0)] = 0
    """Most bytes that a tenant may store, unfinished uploads included; 0 is no limit."""

    upload_life_s: Annotated[float, Field(ge=1)] = 86400.0
    """An upload that nobody has gone on with for so long is removed; give workers the same."""

    max_request_bytes: Annotated[int, Field(ge=1024)] = MIB
    """Largest body of POST /v1/audits."""

    max_verdict_bytes: Annotated[int, Field(ge=1024)] = 64 * MIB
    """Largest body of POST /v1/verdicts, which may carry two reports."""

    max_wait_s: Annotated[int, Field(ge=0, le=600)] = 60
    """Longest wait that `Prefer: wait=N` gets."""

    drain_s: Annotated[float, Field(ge=1, le=600)] = 10.0
    """Time that open requests get on SIGTERM; long polls are answered at once."""

    cors_origins: tuple[Annotated[str, Field(pattern=r"^https?://[^/\s*]+$")], ...] = ()
    """Sites, as a JSON list of origins, whose pages may call with a key (CORS). None by default."""

    min_free_bytes: Annotated[int, Field(ge=0)] = 512 * MIB
    """Room on the disk of the data folder below which `/readyz` says that this instance is not ready."""

    stuck_after_s: Annotated[float, Field(ge=1)] = 120.0
    """Age of the oldest queued audit from which `/readyz` says, if no worker has any, that workers are there but take none."""

    commit: Annotated[Annotated[str, Field(pattern="^[0-9a-f]{7,64}$")] | None, BeforeValidator(_read_empty)] = None
    """Commit that this program was built from, told by `GET /v1`; the image sets it when it is built with it."""

    @property
    def is_keyless(self) -> bool:
        """Whether nobody is asked for a key."""
        return self.auth == "off" or (self.auth == "auto" and is_loopback(self.host))

    def find_limits(self, owner: str) -> Limits:
        """Return what a tenant may ask for."""
        own = self.tenants[owner].model_dump(exclude_none=True) if owner in self.tenants else {}
        if self.is_keyless:  # who runs the machine is not held to so many
            own = {"max_live_jobs": 0, "requests_per_s": 0.0} | own
        return Limits(**{name: own.get(name, getattr(self, name)) for name in Limits._fields})


def load_settings() -> Settings:
    """Return the settings of this process's environment.

    Raises:
        BadSettings: with one line per variable that is missing, wrong or misspelt.

    """
    lines = [f"{name} is no setting; did you mean {near}?" for name, near in find_misspelt(os.environ).items()]
    try:
        settings = Settings()
    except ValidationError as error:
        raise BadSettings("\n".join([*(_describe(dict(entry)) for entry in error.errors(include_url=False)), *lines])) from None
    if lines:
        raise BadSettings("\n".join(lines))
    return settings


def _describe(entry: dict[str, Any]) -> str:
    name = str(entry["loc"][0])
    variable = name if name.isupper() else f"FAULTLINE_{name.upper()}"
    reason = entry["msg"].removeprefix("Value error, ").removeprefix("Input ")
    got = "a secret" if "secret" in name else repr(entry["input"])
    return f"{variable} is not set" if entry["type"] == "missing" else f"{variable} {reason}, got {got}"
