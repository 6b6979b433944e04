"""One job from claim to finish: claim, fetch, audit in a child, publish, finish. No Celery here."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from pydantic import ValidationError

from schemas.errors import Cancelled, DeadlineMissed, Fault, FaultlineError, Unavailable, WorkerFault
from schemas.kinds import REQUESTS, JobRequest
from schemas.problem import build_problem
from schemas.report import Measurement
from storage.artifacts import ArtifactStore
from storage.doorbell import Doorbell
from storage.leases import Claim, Leases
from telemetry.spans import note_span, span
from worker.account import find_account, keep_account
from worker.confine import check_layers
from worker.deadline import Deadline
from worker.drain import Drain
from worker.fetching.fetch import Fetcher
from worker.gathering import Gathered, gather
from worker.heartbeat import Heartbeat
from worker.limits import JobLimits
from worker.messages import (
    AnyResult,
    ChildMessage,
    FailureMessage,
    Finding,
    JobMessage,
    ProgressMessage,
    StartedMessage,
    TimingMessage,
    refuse_output,
    take_result,
)
from worker.metrics import count_attempt
from worker.process import Child, ChildCrashed
from worker.publish import Origin, Published, find_published, publish
from worker.settings import WorkerSettings
from worker.tracebacks import show_output
from worker.warm import WarmChild
from worker.watch import observe_layers

log = logging.getLogger(__name__)

TICK_S = 0.1
SEND_LIMIT_S = 10.0

Interruption = Literal["cancelled", "lost", "released", "waits"]
Outcome = Literal["declined", "not_claimed", "succeeded", "failed", "cancelled", "lost", "released", "waits", "crashed"]
ENDED: frozenset[Outcome] = frozenset({"succeeded", "failed", "cancelled", "lost", "waits"})


class Interrupted(Exception):
    """The audit must stop now: it was cancelled, its lease is lost, the worker is going down, or an equal audit runs."""

    def __init__(self, why: Interruption) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True)
class Resources:
    """All that running a job needs."""

    worker: str
    settings: WorkerSettings
    leases: Leases
    artifacts: ArtifactStore
    doorbell: Doorbell
    warm: WarmChild
    drain: Drain
    fetcher: Fetcher


def answer_doorbell(job_id: str, resources: Resources) -> list[Outcome]:
    """Run the next job, and go on while there are more; a job that was given back is left to other workers."""
    outcomes = [run_job(job_id, resources)]
    while outcomes[-1] in ENDED:
        outcomes.append(run_job(job_id, resources))
    return outcomes


def run_job(job_id: str, resources: Resources) -> Outcome:
    """Return what became of the queue's next job: every way out leaves it finished, released or to its lease.

    Anything unexpected is raised: the lease then runs out, which costs the job one of its attempts.
    """
    # Claimed only when it can start at once: until then the job is free for other workers.
    while not (resources.warm.wait(TICK_S) or resources.drain.begun):
        pass
    if resources.drain.begun:
        resources.doorbell.ring(job_id, resources.settings.device)
        return "declined"
    asked_ns = time.time_ns()
    claim = resources.leases.claim(job_id, resources.worker, resources.settings.device)
    if claim is None:  # nothing waits that may run now: a doorbell may ring twice
        return "not_claimed"
    above = resources.leases.read_traceparent(claim.id)
    heartbeat = Heartbeat(resources.leases, claim.id, claim.attempt, resources.settings.beat_s)
    # The beats go on while the end is written, so that a slow disk does not cost the lease.
    with keep_account(claim, above, count_attempt) as account, heartbeat:
        note_span("claim", asked_ns, time.time_ns())
        account.outcome = outcome = _bring_to_an_end(claim, heartbeat, resources)
    return outcome


def _bring_to_an_end(claim: Claim, heartbeat: Heartbeat, resources: Resources) -> Outcome:
    try:
        published = _audit(claim, heartbeat, resources)
    except Interrupted as interrupted:
        return _give_up(interrupted.why, claim, resources)
    except ChildCrashed as crash:
        # Perhaps the machine's fault, perhaps the model's: another attempt follows, until the job's tries are used up.
        return _hand_back(claim, resources, Fault(what=str(crash)))
    except Unavailable:
        raise  # not the job's fault: its lease runs out, and somebody tries again when things may be better
    except FaultlineError as error:
        return _fail("failed", error, claim, resources)
    ended = partial(resources.leases.finish, claim.id, claim.attempt, "succeeded", complete=published.complete)
    done = _persist(lambda: ended(report_sha256=published.report_sha256, verdict=published.verdict), resources.drain)
    return "succeeded" if done else "lost"


def _give_up(why: Interruption, claim: Claim, resources: Resources) -> Outcome:
    if why == "cancelled":
        return _fail("cancelled", Cancelled(Fault(what="the audit was cancelled on request")), claim, resources)
    if why == "released":
        return _hand_back(claim, resources)
    return why


def _hand_back(claim: Claim, resources: Resources, fault: Fault | None = None) -> Outcome:
    """Return the job to the queue; with a fault it costs the job one of its tries."""
    if not _persist(lambda: resources.leases.release(claim.id, claim.attempt, fault), resources.drain):
        return "lost"
    resources.doorbell.ring(claim.id, resources.settings.device)
    return "released" if fault is None else "crashed"


def _fail(state: Literal["failed", "cancelled"], error: FaultlineError, claim: Claim, resources: Resources) -> Outcome:
    find_account().code = error.code
    problem = build_problem(error).model_dump(mode="json")
    finish = resources.leases.finish
    return state if _persist(lambda: finish(claim.id, claim.attempt, state, problem=problem), resources.drain) else "lost"


def _persist(write: Callable[[], bool], drain: Drain) -> bool:
    """Repeat the write until the store takes it; False when it was refused. Fencing makes repeating safe."""
    with span("finish"):
        return _repeat(write, drain)


def _repeat(write: Callable[[], bool], drain: Drain) -> bool:
    while True:
        try:
            return write()
        except Unavailable:
            if drain.over:
                raise
            time.sleep(TICK_S * 5)


def _audit(claim: Claim, heartbeat: Heartbeat, resources: Resources) -> Published:
    """Run the claimed job in the warm child and publish what it found."""
    request, deadline = _read_request(claim), Deadline.after(claim.left_s)
    with span("fetch"):
        gathered = _gather(claim, request, heartbeat, resources)
        known = _find_known(claim, gathered, resources)
        if known is None and claim.report_sha256 is not None:  # its file is gone
            gathered = _gather(replace(claim, report_sha256=None), request, heartbeat, resources)
            known = _find_known(claim, gathered, resources)
    if known is not None:
        return known
    job, origin = _order(claim, gathered, resources.settings)
    child = _take_child(heartbeat, resources)
    try:
        limits = JobLimits(resources.settings, child, deadline)
        job = job.model_copy(update={"left_s": deadline.left_s})
        with span("audit"):
            found, layers = _converse(child, job, heartbeat, resources, limits)
        child.kill()
        if isinstance(found, Measurement):
            find_account().measurement = found
            environment = found.environment.model_copy(update={"sandbox": layers})
            found = found.model_copy(update={"environment": environment})
        with span("publish"):
            return publish(origin, found, child.scratch, resources.artifacts, resources.settings.job_scratch_bytes)
    except (ChildCrashed, WorkerFault) as error:
        log.warning("job %s: %s; the audit process wrote:\n%s", claim.id, error, show_output(child.log, resources.settings))
        raise
    finally:
        child.discard()


def _find_known(claim: Claim, gathered: Gathered, resources: Resources) -> Published | None:
    report_sha256 = gathered.report_sha256
    return None if report_sha256 is None else find_published(claim.owner, gathered.request, report_sha256, resources.artifacts)


def _read_request(claim: Claim) -> JobRequest:
    try:
        return REQUESTS[claim.kind].model_validate_json(claim.request)
    except ValidationError as error:
        advice = "the service and the worker are of different versions: tell the operator"
        raise WorkerFault(
            Fault(what="the worker cannot read the request", got=f"{error.error_count()} errors", advice=advice)
        ) from None


def _gather(claim: Claim, request: JobRequest, heartbeat: Heartbeat, resources: Resources) -> Gathered:
    began = time.monotonic()

    def check() -> None:
        _check_interrupted(heartbeat, resources.drain)
        if claim.left_s is not None and time.monotonic() - began >= claim.left_s:
            advice = "ask for a later deadline, or upload the files"
            raise DeadlineMissed(
                Fault("the files were not there before the audit's deadline", "/deadline_s", "files", "", advice)
            )

    given = resources.fetcher, resources.leases, resources.artifacts
    gathered = gather(claim, request, *given, heartbeat, check)
    if gathered.answer != "ok":
        raise Interrupted(gathered.answer)
    return gathered


def _order(claim: Claim, gathered: Gathered, settings: WorkerSettings) -> tuple[JobMessage, Origin]:
    """Return the child's orders and what is known without it."""
    request, named = gathered.request, {part: str(path) for part, path in gathered.paths.items()}
    job = JobMessage(
        kind=claim.kind,
        request=request.model_dump(mode="json", exclude={"policy", "labels", "webhook"}),
        model_path=named["model"],
        data_path=named.get("data"),
        held_out_path=named.get("evaluate_on"),
        loss_path=named.get("objective/program"),
        memory_bytes=settings.memory_bytes,
        file_bytes=settings.job_scratch_bytes,
    )
    return job, Origin(claim.owner, request, gathered.request_digest, gathered.paths["model"].stat().st_size)


def _take_child(heartbeat: Heartbeat, resources: Resources) -> Child:
    while True:
        child = resources.warm.take(TICK_S)
        if child is not None:
            return child
        _check_interrupted(heartbeat, resources.drain)


def _check_interrupted(heartbeat: Heartbeat, drain: Drain) -> None:
    why: Interruption | None = None
    if heartbeat.answer == "lost":
        why = "lost"
    elif heartbeat.answer == "cancel":
        why = "cancelled"
    elif drain.over:
        why = "released"
    if why is not None:
        raise Interrupted(why)


def _converse(
    child: Child, job: JobMessage, heartbeat: Heartbeat, resources: Resources, limits: JobLimits
) -> tuple[Finding, dict[str, bool]]:
    """Return the result, and how the child had confined itself before it began.

    Raises:
        Interrupted: on cancel, a lost lease, or the end of the drain time.
        LimitError: when a limit is passed.
        FaultlineError: what the child says is wrong with the model or the data.
        ChildCrashed: when it ended without a result.
    """
    layers: dict[str, bool] = {}
    account = find_account()
    account.note_given()
    child.send(job, SEND_LIMIT_S)
    while True:
        for message in _receive(child, limits):
            if isinstance(message, AnyResult):
                return take_result(message, job.kind), layers
            if isinstance(message, ProgressMessage):
                heartbeat.tell(message)
            elif isinstance(message, TimingMessage):
                account.note_timing(message)
            elif isinstance(message, StartedMessage) and not layers:  # once: later it could be the model that speaks
                layers = observe_layers(child.pid, message.layers)
                check_layers(layers, resources.settings.sandbox)
            elif isinstance(message, FailureMessage):
                raise message.to_error()
            else:
                refuse_output("ready a second time")
        _check_interrupted(heartbeat, resources.drain)
        limits.check()


def _receive(child: Child, limits: JobLimits) -> list[ChildMessage]:
    try:
        return child.receive(TICK_S)
    except ChildCrashed as crash:
        limits.explain(crash)
