"""What every phase of an audit reads: the opened session, the gradient, the clean outcome, the coverage."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.request import AuditRequest, NamedScope
from worker.engine.admit import check_clean_loss
from worker.engine.flags import RaisedFlag
from worker.engine.gradient import GradientInfo, compute_gradient
from worker.engine.objective import Objective
from worker.engine.opening import Source, open_session
from worker.engine.record import Clean, Pool
from worker.engine.scopes import NamePattern, Scope, find_scopes
from worker.engine.search import SearchSettings
from worker.engine.session import Session

if TYPE_CHECKING:
    from worker.audit import AuditInput


@dataclass(frozen=True)
class AuditContext:
    """An audit on its way.

    audited: the weights with a differentiable path to the loss, or all of them where there is none at all. pool: the worst
    corruptions found so far, over all phases.
    """

    job: "AuditInput"
    session: Session
    parity: float
    audited: tuple[str, ...]
    gradient: GradientInfo
    clean: Clean
    pool: Pool
    scopes: tuple[Scope, ...]
    settings: SearchSettings
    flags: tuple[RaisedFlag, ...]

    @property
    def request(self) -> AuditRequest:
        """What was asked."""
        return self.job.request


def open_context(job: "AuditInput") -> AuditContext:
    """Load, admit, and compute the gradient that serves every cell."""
    request = job.request
    opened = open_session(build_source(job))
    session = opened.session
    weights = tuple(session.program.weights)
    gradient = compute_gradient(session, weights)
    audited = gradient.reached or weights
    outcome = gradient.clean
    metrics = {name: value for name, value in outcome.metrics.items() if value is not None}
    clean = Clean(check_clean_loss(outcome.loss, outcome.non_finite), metrics)
    scopes, flags = _find_audited_scopes(request, session, audited)
    if not gradient.reached:
        flags = [RaisedFlag("no_gradient", evidence={"tensors": len(audited)}), *flags]
    search = request.search
    settings = SearchSettings(search.method, search.budget_passes, search.random_trials, search.seed)
    return AuditContext(job, session, opened.parity, audited, gradient, clean, Pool(clean), tuple(scopes), settings, tuple(flags))


def build_source(job: "AuditInput") -> Source:
    """Return where the engine finds the model and the data, and what it is to compute."""
    objective, data = job.request.objective, job.request.data
    return Source(
        model_path=job.model_path,
        data_path=job.data_path,
        objective=Objective(
            objective.loss, objective.output_kind, objective.ignore_index, objective.output, objective.metric_names
        ),
        model_format=job.request.model.format,
        columns=tuple(data.inputs.items()),
        target=data.target,
        device=job.device,
        threads=job.threads,
    )


def _find_audited_scopes(
    request: AuditRequest, session: Session, audited: tuple[str, ...]
) -> tuple[list[Scope], list[RaisedFlag]]:
    """Resolve the scopes over all weights, then leave out what has no path to the loss, with a flag where nothing is left."""
    asked = [NamePattern(scope.name, scope.match) if isinstance(scope, NamedScope) else scope for scope in request.scopes]
    scopes, flags = [], []
    for scope in find_scopes(asked, tuple(session.program.weights), session.program.modules):
        kept = tuple(name for name in scope.tensors if name in audited)
        if kept:
            scopes.append(Scope(scope.kind, scope.name, kept))
        else:
            flags.append(RaisedFlag("no_parameters", scope.name, {"tensors": len(scope.tensors)}))
    return scopes, flags
