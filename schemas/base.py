"""What every contract shares: frozen models, finite floats, UTC times, digests."""

import hashlib
import json
import math
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

SCHEMA_VERSION: Literal[1] = 1


class Input(BaseModel):
    """What a client sends: frozen, finite, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=False)


class Output(BaseModel):
    """What Faultline publishes: frozen, finite, no defaults; readers ignore fields they do not know."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


def _check_norm(value: object) -> object:
    if value in ("inf", math.inf):  # a tuple: what a client sends need not be hashable
        return "inf"
    return value


Norm = Annotated[Annotated[float, Field(ge=1)] | Literal["inf"], BeforeValidator(_check_norm)]
"""The p of a norm: a number >= 1, or the string "inf"."""


Scale = Literal[
    "absolute", "elementwise", "tensor", "rounding_int8", "rounding_int8_per_channel", "rounding_fp16", "rounding_bf16"
]
"""What epsilon is measured in; docs/method.md section 6."""


def norm_value(norm: float | Literal["inf"]) -> float:
    """Return p as a float, infinity included."""
    return float(norm)


def _check_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        message = "a time needs its zone; write it in UTC, such as 2026-01-31T12:00:00Z"
        raise ValueError(message)
    return value.astimezone(UTC)


UtcTime = Annotated[datetime, AfterValidator(_check_utc)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


Name = Annotated[str, Field(min_length=1, max_length=512)]

ValueT = TypeVar("ValueT")


def check_unique(values: tuple[ValueT, ...]) -> tuple[ValueT, ...]:
    """Return the values; ValueError when one stands twice."""
    if len(set(values)) != len(values):
        message = "lists a value twice"
        raise ValueError(message)
    return values


def canonical_bytes(value: BaseModel | dict[str, Any] | list[Any]) -> bytes:
    """Return the one JSON spelling of `value`: sorted keys, no spaces, UTF-8, shortest floats."""
    content = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def compute_sha256(content: bytes) -> str:
    """Return the lower-case hexadecimal sha-256 of `content`."""
    return hashlib.sha256(content).hexdigest()
