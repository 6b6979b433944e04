"""What every phase of an audit reads: the opened session, the gradient, the clean outcome, the coverage."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.request import AuditRequest
from worker.engine.admit import check_clean_loss
from worker.engine.components import find_components, find_depths
from worker.engine.flags import RaisedFlag
from worker.engine.gradient import GradientInfo, compute_gradient
from worker.engine.models.clean import find_read_weights
from worker.engine.models.program import Program
from worker.engine.opening import Opened, open_session
from worker.engine.population import Population
from worker.engine.record import Clean, Pool
from worker.engine.scopes import Scope
from worker.engine.search import SearchSettings
from worker.engine.session import Session
from worker.phases import ReportProgress
from worker.places import check_places, find_asked_scopes
from worker.sources import build_source

if TYPE_CHECKING:
    from worker.audit import AuditInput


@dataclass(frozen=True)
class Places:
    """What every weight is and where it stands: component type, and depth from 0 at the input to 1 at the output."""

    components: dict[str, str]
    depths: dict[str, float]

    def find_component(self, scope: Scope) -> str | None:
        """Return the one component of a scope, its biases aside; None where there are several."""
        held = {self.components[name] for name in scope.tensors}
        kinds = held - {"bias"} or held
        return kinds.pop() if len(kinds) == 1 else None

    def find_depth(self, scope: Scope) -> float | None:
        """Return where a scope begins; None for the whole model."""
        return None if scope.kind == "model" else min(self.depths[name] for name in scope.tensors)


@dataclass(frozen=True)
class AuditContext:
    """An audit on its way.

    audited: the weights that the loss depends on; those without a gradient are searched from random corruptions. pool: the worst
    corruptions found so far, over all phases. population: all of the data, where the session has a sample of it.
    """

    job: "AuditInput"
    session: Session
    parity: float
    audited: tuple[str, ...]
    gradient: GradientInfo
    clean: Clean
    pool: Pool
    places: Places
    scopes: tuple[Scope, ...]
    settings: SearchSettings
    held_out: Session | None
    population: Population | None
    flags: tuple[RaisedFlag, ...]

    @property
    def request(self) -> AuditRequest:
        """What was asked."""
        return self.job.request


def open_context(job: "AuditInput", report_progress: ReportProgress) -> AuditContext:
    """Load, admit, and compute the gradient that serves every cell."""

    def check_request(program: Program) -> None:
        report_progress("admitting", 0, 1)
        check_places(job.request, program)

    report_progress("loading", 0, 1)
    opened = open_session(build_source(job), check_request)
    report_progress("gradient", 0, 1)
    return build_context(job, opened)


def build_context(job: "AuditInput", opened: Opened) -> AuditContext:
    """Compute the gradient of a session that was opened for this job, and find what can be audited."""
    request, session = job.request, opened.session
    weights = tuple(session.program.weights)
    gradient = compute_gradient(session, weights)
    audited = find_read_weights(session.program, session.objective.name_outputs(session.program.outputs)) or weights
    outcome = gradient.clean
    metrics = {name: value for name, value in outcome.metrics.items() if value is not None}
    clean = Clean(check_clean_loss(outcome.loss, outcome.non_finite), metrics)
    places = Places(find_components(session.program), find_depths(session.program))
    scopes, flags = find_audited_scopes(request, session.program, audited)
    if not gradient.reached:
        flags = [RaisedFlag("no_gradient", evidence={"tensors": len(audited)}), *flags]
    search = request.search
    settings = SearchSettings(search.method, search.budget_passes, search.random_trials, search.seed, job.should_stop)
    return AuditContext(
        job=job,
        session=session,
        parity=opened.parity,
        audited=audited,
        gradient=gradient,
        clean=clean,
        pool=Pool(clean),
        places=places,
        scopes=tuple(scopes),
        settings=settings,
        held_out=opened.held_out,
        population=opened.population,
        flags=tuple(flags),
    )


def find_audited_scopes(
    request: AuditRequest, program: Program, audited: tuple[str, ...]
) -> tuple[list[Scope], list[RaisedFlag]]:
    """Return the scopes without what has no path to the loss, and a flag for each where nothing is left."""
    scopes, flags = [], []
    for scope in find_asked_scopes(request, program):
        kept = tuple(name for name in scope.tensors if name in audited)
        if kept:
            scopes.append(Scope(scope.kind, scope.name, kept))
        else:
            flags.append(RaisedFlag("no_parameters", scope.name, {"tensors": len(scope.tensors)}))
    return scopes, flags
