"""Waivers: a named person's word that a failing condition may pass on one scope until a date."""

from datetime import date
from typing import NamedTuple

from gate.matching import matches_scope
from schemas.policy import Policy, Waiver
from schemas.report import Report
from schemas.verdict import ExpiredWaiver


class ActiveWaivers(NamedTuple):
    """The waivers that count today for the audited model."""

    waivers: tuple[Waiver, ...]

    def find_for(self, condition: str, kinds: frozenset[str], scope: str) -> Waiver | None:
        """Return the first waiver that covers a condition's failure on a scope."""
        for waiver in self.waivers:
            if waiver.condition == condition and matches_scope(waiver.scope, kinds, scope):
                return waiver
        return None


def select_active(policy: Policy, report: Report, today: date) -> ActiveWaivers:
    """Return the waivers that have not expired and are not pinned to another model."""
    model = report.subject.model.sha256
    return ActiveWaivers(
        tuple(waiver for waiver in policy.waivers if not _is_expired(waiver, today) and waiver.model_sha256 in {None, model})
    )


def list_expired(policy: Policy, today: date) -> tuple[ExpiredWaiver, ...]:
    """Return the waivers whose last day is over; they no longer count."""
    return tuple(
        ExpiredWaiver(condition=waiver.condition, scope=waiver.scope, owner=waiver.owner, expires=waiver.expires)
        for waiver in policy.waivers
        if _is_expired(waiver, today)
    )


def list_other_models(policy: Policy, report: Report, today: date) -> tuple[str, ...]:
    """Return a sentence for each waiver that is in time but pinned to another model."""
    model = report.subject.model.sha256
    return tuple(
        f"The waiver of {waiver.condition} by {waiver.owner} does not count: it is for model {waiver.model_sha256}, not {model}."
        for waiver in policy.waivers
        if not _is_expired(waiver, today) and waiver.model_sha256 not in {None, model}
    )


def _is_expired(waiver: Waiver, today: date) -> bool:
    """Tell whether the waiver's last day, `expires`, lies before `today`."""
    return today > waiver.expires
