"""Policy: the rules a report is judged by. docs/contract.md describes every field."""

import re
from datetime import date, datetime
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from schemas.base import SCHEMA_VERSION, Fraction, Input, Norm, PositiveFloat, Scale, Sha256
from schemas.limits import Along, Limit


def _read_day(value: object) -> date:
    """Return the day of `YYYY-MM-DD`, or a day as YAML reads it; pydantic would also take midnights and seconds since 1970."""
    if isinstance(value, str) and DAY.fullmatch(value):
        return date.fromisoformat(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    message = "give a day as YYYY-MM-DD"
    raise ValueError(message)


DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
Day = Annotated[date, BeforeValidator(_read_day)]
Metric = Annotated[str, Field(min_length=1, max_length=64)]
Text = Annotated[str, Field(min_length=1, max_length=512)]


class RequiredSearch(Input):
    """The least effort a report must have spent per cell."""

    method: Literal["first_order", "reapplied", "ascent", "second_order", "auto"] | None = None
    budget_passes_at_least: Annotated[int, Field(ge=1)] | None = None


class RequiredClean(Input):
    """How good the clean model must be; a chance-level model has nothing to lose."""

    accuracy_at_least: Fraction | None = None
    loss_at_most: PositiveFloat | None = None


class Requires(Input):
    """What a report must be before it is judged. `clean` unmet: fail; any other unmet: inconclusive."""

    clean: RequiredClean | None = None
    search: RequiredSearch | None = None
    examples_at_least: Annotated[int, Field(ge=1)] | None = None
    weights_audited_at_least: Fraction | None = None
    data_sha256: Sha256 | None = None


class Where(Input):
    """Which findings a condition reads: fields of scope and set; `scope` is a kind or a glob on the scope's name.

    bit_flips: reads what at most so many flips do instead, of the request's entry with this `match` if one is named.
    """

    scope: Text | None = None
    norm: Norm | None = None
    epsilon: PositiveFloat | None = None
    max_corrupted: Annotated[int, Field(ge=1)] | None = None
    scale: Scale | None = None
    bit_flips: Annotated[int, Field(ge=1)] | None = None
    match: Text | None = None

    @model_validator(mode="after")
    def _check_flips(self) -> Self:
        cells = [name for name in ("scope", "norm", "epsilon", "max_corrupted", "scale") if getattr(self, name) is not None]
        if self.bit_flips is not None and cells:
            message = f"bit flips have no {', '.join(cells)}; name their weights with match"
            raise ValueError(message)
        if self.bit_flips is None and self.match is not None:
            message = "match names the weights of bit flips; it needs bit_flips, the number of flips"
            raise ValueError(message)
        return self


class Demand(Input):
    """A limit on one figure of a finding."""

    metric: Metric | None = None
    drop_at_most: Annotated[float, Field(ge=0)] | None = None
    at_least: float | None = None
    at_most: float | None = None
    loss_change_at_most: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        names = [name for name in type(self).model_fields if name.endswith(("_at_most", "_at_least")) or name.startswith("at_")]
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            message = f"give exactly one of {', '.join(names)}; drop_at_most, at_least and at_most with a metric"
            raise ValueError(message)
        if given[0] in {"drop_at_most", "at_least", "at_most"} and self.metric is None:
            message = "drop_at_most, at_least and at_most need a metric"
            raise ValueError(message)
        if self.loss_change_at_most is not None and self.metric is not None:
            message = "loss_change_at_most is about the loss; leave metric out"
            raise ValueError(message)
        return self


class Require(Demand):
    """One demand on each matching finding or breaking point.

    along, limit: which breaking points are meant: in epsilon or in max_corrupted, and of which limit exactly.
    """

    breaking_point_at_least: PositiveFloat | None = None
    along: Along = "epsilon"
    limit: Limit | None = None

    @model_validator(mode="after")
    def _check_point(self) -> Self:
        if self.breaking_point_at_least is None and (self.along != "epsilon" or self.limit is not None):
            message = "along and limit say which breaking point is meant; they need breaking_point_at_least"
            raise ValueError(message)
        if self.limit is not None and self.metric is not None:
            message = "limit names the metric already; leave metric out"
            raise ValueError(message)
        return self


class Condition(Input):
    """One rule of the gate. No matching finding makes it inconclusive."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")]
    where: Where = Where()
    require: Require
    severity: Literal["error", "warning"] = "error"
    undecided: Literal["inconclusive", "fail", "warn", "pass"] = "inconclusive"

    @model_validator(mode="after")
    def _check_breaking_point(self) -> Self:
        along = self.require.along
        if self.require.breaking_point_at_least is not None and getattr(self.where, along) is not None:
            message = f"breaking_point_at_least is itself a value of {along}; leave {along} out of where"
            raise ValueError(message)
        if self.require.breaking_point_at_least is not None and self.where.bit_flips is not None:
            message = "bit flips have no breaking point; demand a loss change or a metric"
            raise ValueError(message)
        return self


class Regression(Input):
    """Limits against a baseline report, matched by scope name and set."""

    loss_change_ratio_at_most: PositiveFloat | None = None
    metric_drop_increase_at_most: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if self.loss_change_ratio_at_most is None and self.metric_drop_increase_at_most is None:
            message = "give loss_change_ratio_at_most, metric_drop_increase_at_most or both"
            raise ValueError(message)
        return self


class Waiver(Input):
    """A named person's word that a failing condition may pass on one scope until a date."""

    condition: Text
    scope: Text | None = None
    reason: Text
    owner: Text
    expires: Day
    model_sha256: Sha256 | None = None


class Policy(Input):
    """A gate: requirements on the report, conditions on its findings, waivers."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: Text
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    requires: Requires = Requires()
    conditions: Annotated[tuple[Condition, ...], Field(min_length=1, max_length=256)]
    regression: Regression | None = None
    waivers: Annotated[tuple[Waiver, ...], Field(max_length=256)] = ()

    @model_validator(mode="after")
    def _check_ids(self) -> Self:
        ids = [condition.id for condition in self.conditions]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        unknown = sorted({waiver.condition for waiver in self.waivers} - set(ids))
        problems = [f"condition id {name!r} is used twice" for name in twice]
        problems += [f"waiver names condition {name!r}, which does not exist" for name in unknown]
        if problems:
            raise ValueError("; ".join(problems))
        return self
