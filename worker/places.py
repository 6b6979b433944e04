"""The places that a request names in the model: scopes, scopes of breaking points, patterns of bit flips."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from schemas.errors import Fault, ScopeError
from schemas.request import AuditRequest, BitFlipRequest, NamedScope
from worker.engine.components import find_components, find_depths, group_by_component, group_by_depth
from worker.engine.models.program import Program
from worker.engine.models.stored import read_stored
from worker.engine.refusals import Refusals
from worker.engine.scopes import Grouping, NamePattern, Scope, describe_no_match, find_scopes


def check_places(request: AuditRequest, program: Program) -> None:
    """Raise ScopeError with everything that the request names and that no weight of the model matches."""
    refusals = Refusals()
    scopes = refusals.attempt(find_asked_scopes, request, program) or []
    refusals.attempt(find_point_scopes, request, program, tuple(program.weights), scopes)
    refusals.attempt(find_flipped, request, program, tuple(program.weights))
    refusals.raise_any()


def find_asked_scopes(request: AuditRequest, program: Program) -> list[Scope]:
    """Return the request's scopes over all weights; a ScopeError names every pattern without a match."""
    asked = [NamePattern(scope.name, scope.match) if isinstance(scope, NamedScope) else scope for scope in request.scopes]
    groupings: dict[str, Grouping] = {
        "per_component": lambda names: group_by_component(names, find_components(program)),
        "per_depth": lambda names: group_by_depth(names, find_depths(program)),
    }
    return find_scopes(asked, tuple(program.weights), program.modules, groupings)


def find_point_scopes(
    request: AuditRequest, program: Program, audited: tuple[str, ...], scopes: Sequence[Scope]
) -> Mapping[str, Scope]:
    """Return what a breaking point can be of, by name; a ScopeError names every one asked for that is not among them."""
    modules: dict[str, tuple[str, ...]] = {}
    for name in audited:
        module = program.modules[name] or name
        modules[module] = (*modules.get(module, ()), name)
    known = {name: Scope("per_tensor", name, (name,)) for name in audited}
    known |= {name: Scope("per_module", name, tensors) for name, tensors in modules.items()}
    known["model"] = Scope("model", "model", audited)
    known |= {scope.name: scope for scope in scopes if scope.kind == "named"}
    points = request.breaking_points or ()
    missing = [
        describe_no_match(f"breaking point scope {point.scope!r}", audited) for point in points if point.scope not in known
    ]
    if missing:
        raise ScopeError(*missing)
    return known


def find_flipped(request: AuditRequest, program: Program, audited: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Return the weights whose bits each entry may flip; a ScopeError names every pattern without weights or bits."""
    found = tuple(tuple(name for name in audited if fnmatchcase(name, one.match)) for one in request.bit_flips)
    faults = []
    for asked, names in zip(request.bit_flips, found, strict=True):
        if not names:
            faults.append(describe_no_match(f"bit_flips pattern {asked.match!r}", audited))
        elif asked.kinds and not _find_kinds(program, names).intersection(asked.kinds):
            faults.append(_describe_no_bits(asked))
    if faults:
        raise ScopeError(*faults)
    return found


def _find_kinds(program: Program, names: Sequence[str]) -> set[str]:
    stored = read_stored(program.weights, program.storage, names).values()
    return {entry.name_kind(bit) for entry in stored for bit in range(entry.bits)}


def _describe_no_bits(asked: BitFlipRequest) -> Fault:
    return Fault(
        what=f"bit_flips pattern {asked.match!r} matches weights without bits of these kinds",
        where="/bit_flips",
        expected="sign, exponent or mantissa for floats; sign or value for integers",
        got=", ".join(asked.kinds or ()),
        advice="leave kinds out, or name those of the stored format",
    )
