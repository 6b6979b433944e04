"""One audit from start to end: load -> admit -> search -> measure -> report. Read this file first."""

from dataclasses import dataclass, field
from pathlib import Path

from schemas.report import Measurement
from schemas.request import AuditRequest
from worker.beyond import HeldOutMeter
from worker.breaking import find_breaking_points
from worker.context import open_context
from worker.deadline import StopSign
from worker.engine.flags import find_chance_flags, find_loss_flags, find_memory_flags, find_model_flags
from worker.flips import measure_bit_flips
from worker.phases import ReportProgress
from worker.sweep import choose_sets, sweep_scopes
from worker.unfinished import find_deadline_flags, find_unmeasured
from worker.writing import write_measurement


@dataclass(frozen=True)
class AuditInput:
    """What the child is given: the request, the files as local paths, a private folder, how to run, and when to stop."""

    request: AuditRequest
    model_path: Path
    data_path: Path
    scratch: Path
    device: str = "cpu"
    threads: int = 1
    held_out_path: Path | None = None
    loss_path: Path | None = None
    should_stop: StopSign = field(default_factory=StopSign)


def measure_audit(job: AuditInput, report_progress: ReportProgress) -> Measurement:
    """Measure everything the request asks for; counterexample files are left in the scratch folder.

    Returns:
        What the supervisor will check and complete to a report; told to stop, what was measured until then. FaultlineError,
        from any phase, names every reason why the audit cannot be done.
    """
    context = open_context(job, report_progress)
    session, clean = context.session, context.clean
    flags = [*find_model_flags(session, context.parity), *find_chance_flags(session, clean), *find_loss_flags(session, clean)]
    points = find_breaking_points(context, report_progress)
    sets = choose_sets(job.request, points)
    sweep = sweep_scopes(context, sets, job.scratch, report_progress)
    report_progress("bit_flips", 0, 1)
    flips = measure_bit_flips(context)
    report_progress("writing", 0, 1)
    findings, missing = sweep.list_findings(), find_unmeasured(context, points, sweep, flips)
    flags += find_deadline_flags(context, missing)
    flags += [*context.flags, *sweep.list_flags(), *HeldOutMeter.find_flags(findings), *find_memory_flags(session)]
    return write_measurement(context, sweep, points, flips, flags).model_copy(
        update={"complete": not job.should_stop.has_stopped, "unmeasured": missing}
    )
