"""The audit process: `python -m worker.child`. Warmed before the job is known, used for one job, then gone.

Order: tie to the parent, set the protocol aside, import everything, say ready, wait for the job,
confine, audit, say the result. Nothing of a job is read before `confine`.
"""

import argparse
import os
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from schemas.errors import Fault, FaultlineError, LimitError, MemoryLimit, WorkerFault
from schemas.inspection import InspectionRequest
from schemas.request import AuditRequest
from worker.confine import Confinement, Limits, SandboxMode, check_layers, confine, leave_network, tie_to_parent
from worker.deadline import Deadline, StopSign
from worker.engine.shortage import is_out_of_memory
from worker.messages import (
    JobMessage,
    ProgressMessage,
    ReadyMessage,
    StartedMessage,
    build_failure,
    build_result,
    build_timing,
    encode_line,
)
from worker.phases import PhaseClock

if TYPE_CHECKING:
    from pydantic import BaseModel

    from worker.messages import Finding

PROGRESS_PERIOD_S = 0.1
PARENT_GONE = 3

Work = Callable[[JobMessage, Callable[[str, int, int], None]], "Finding"]
WarmUp = Callable[[str, int], Work]
"""From device and threads to the function that does a job."""


def main(warm_up: WarmUp) -> None:
    """Serve one job; `warm_up` imports what the audits need and returns how to run one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--sandbox", choices=("required", "best", "off"), required=True)
    given = parser.parse_args()
    offline = leave_network(given.sandbox, accelerator=given.device != "cpu")
    if not tie_to_parent(given.parent):
        os._exit(PARENT_GONE)
    incoming, outgoing = _set_protocol_aside()
    work = warm_up(given.device, given.threads)
    say = _make_speaker(outgoing)
    say(ReadyMessage())
    line = incoming.readline()
    if line:
        job = JobMessage.model_validate_json(line)
        layers = {**_confine(job, given.sandbox, given.device), "namespaces": offline}
        say(StartedMessage(layers=layers))
        _serve(job, partial(_check_first, work, layers, given.sandbox), say)
    # Not sys.exit: tearing down the libraries takes time and can crash after the result was given.
    os._exit(0)


def _set_protocol_aside() -> tuple[BinaryIO, BinaryIO]:
    """Return the pipes to the supervisor; from here on descriptor 0 is empty and prints go to the log."""
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return incoming, outgoing


def warm_up_engine(device: str, threads: int) -> Work:
    """Import the engine; the accelerator is not touched, so that an idle child holds none of its memory."""
    import torch  # noqa: PLC0415 - the seconds this takes are spent before the job comes

    from worker.audit import AuditInput, measure_audit  # noqa: PLC0415
    from worker.engine.data.libraries import import_readers  # noqa: PLC0415
    from worker.engine.opening import fix_numerics  # noqa: PLC0415
    from worker.inspecting import InspectionInput, inspect_model  # noqa: PLC0415
    from worker.planning import plan_audit  # noqa: PLC0415

    import_readers()
    torch.set_num_interop_threads(1)

    def work(job: JobMessage, report_progress: Callable[[str, int, int], None]) -> "Finding":
        deadline = Deadline.after(job.left_s)
        # A sum split over other threads rounds otherwise: the count is fixed so that reports repeat bit for bit.
        # Only now, because threads that start before Landlock are not bound by it.
        fix_numerics(threads)
        model, data = Path(job.model_path), None if job.data_path is None else Path(job.data_path)
        if job.kind == "inspection" or data is None:
            asked = InspectionRequest.model_validate(job.request)
            return inspect_model(InspectionInput(asked, model, data, Path.cwd(), threads), report_progress)
        held_out = None if job.held_out_path is None else Path(job.held_out_path)
        loss = None if job.loss_path is None else Path(job.loss_path)
        request = AuditRequest.model_validate(job.request)
        sign = StopSign(deadline.is_past)
        given = AuditInput(request, model, data, Path.cwd(), device, threads, held_out, loss, sign)
        return (plan_audit if job.kind == "plan" else measure_audit)(given, report_progress)

    return work


def _make_speaker(outgoing: BinaryIO) -> Callable[["BaseModel"], None]:
    def say(message: "BaseModel") -> None:
        outgoing.write(encode_line(message))
        outgoing.flush()

    return say


def _confine(job: JobMessage, mode: SandboxMode, device: str) -> dict[str, bool]:
    limits = Limits(memory_bytes=job.memory_bytes, file_bytes=job.file_bytes)
    return confine(Confinement(limits, job.list_inputs(), Path.cwd(), accelerator=device != "cpu", mode=mode))


def _check_first(
    work: Work, layers: dict[str, bool], mode: SandboxMode, job: JobMessage, report_progress: Callable[[str, int, int], None]
) -> "Finding":
    check_layers(layers, mode)
    return work(job, report_progress)


def _serve(job: JobMessage, work: Work, say: Callable[["BaseModel"], None]) -> None:
    clock = PhaseClock()
    try:
        found = work(job, clock.watch(_make_progress(say)))
    except Exception as error:  # noqa: BLE001 - whatever the model did, the supervisor must hear of it
        traceback.print_exc()
        say(build_timing(clock.end()))
        say(build_failure(translate_error(error)))
    else:
        say(build_timing(clock.end()))
        say(build_result(found))


def _make_progress(say: Callable[["BaseModel"], None]) -> Callable[[str, int, int], None]:
    """Return a progress function that speaks at most ten times a second, whatever it is told."""
    last = -PROGRESS_PERIOD_S

    def report_progress(phase: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_PERIOD_S:
            last = now
            say(ProgressMessage(phase=phase, done=done, total=total))

    return report_progress


def translate_error(error: Exception) -> FaultlineError:
    """Return what the user is told of an exception; a traceback goes to the log only."""
    if is_out_of_memory(error) and not isinstance(error, LimitError):
        advice = "audit fewer weights or examples at a time, or ask the operator for a higher memory limit"
        return MemoryLimit(
            Fault(what="the audit ran out of memory", got=str(error).splitlines()[0] if str(error) else "", advice=advice)
        )
    if isinstance(error, FaultlineError):
        return error
    return WorkerFault(
        Fault(
            what="the audit process failed unexpectedly",
            got=type(error).__name__,
            advice="this is a fault of Faultline: tell its operator the audit's id, the log has the details",
        )
    )


if __name__ == "__main__":
    main(warm_up_engine)
