"""What an audit that had to stop at its deadline leaves out."""

from collections.abc import Sequence

from schemas.errors import DeadlineMissed, Fault
from schemas.report import BitFlips
from schemas.unmeasured import Unmeasured
from worker.breaking import FoundBreakingPoint, choose_set
from worker.context import AuditContext
from worker.engine.flags import RaisedFlag
from worker.findings import describe_set
from worker.sweep import Sweep


def find_unmeasured(
    context: AuditContext, points: Sequence[FoundBreakingPoint], sweep: Sweep, flips: Sequence[BitFlips]
) -> tuple[Unmeasured, ...]:
    """Return everything that was asked for and that the report says nothing about.

    Raises:
        DeadlineMissed: when nothing at all was measured.
    """
    tried = [point for point in points if point.result.evaluations]
    if context.job.should_stop.has_stopped and not (tried or sweep.findings or flips):
        raise DeadlineMissed(_describe_nothing())
    missing = [_show(point) for point in points if not point.result.evaluations]
    missing += [
        Unmeasured(what="finding", scope=cell.scope.name, kind=cell.scope.kind, set=describe_set(cell.corruption_set))
        for cell in sweep.list_missing()
    ]
    missing += [
        Unmeasured(what="bit_flips", scope=asked.match, kind=None, set={"counts": [*asked.counts]})
        for asked in context.request.bit_flips[len(flips) :]
    ]
    return tuple(missing)


def find_deadline_flags(context: AuditContext, missing: Sequence[Unmeasured]) -> list[RaisedFlag]:
    """Return the doubt about an audit that had to stop."""
    if not context.job.should_stop.has_stopped:
        return []
    return [RaisedFlag("deadline", evidence={"deadline_s": context.request.deadline_s, "unmeasured": len(missing)})]


def _show(point: FoundBreakingPoint) -> Unmeasured:
    chosen = {name: value for name, value in describe_set(choose_set(point.asked, 1.0)).items() if name != point.asked.along}
    limit = point.asked.limit.model_dump(mode="json", exclude_none=True)
    return Unmeasured(what="breaking_point", scope=point.asked.scope, kind=None, set=chosen | {"limit": limit})


def _describe_nothing() -> Fault:
    return Fault(
        what="the deadline came before anything was measured",
        where="/deadline_s",
        expected="time for one search at least",
        got="none",
        advice="ask for a later deadline; a plan (POST /v1/audits:plan) says how long the audit takes",
    )
