"""Turns the options of `faultline audit` into a request; what they say replaces what the request file says."""

from pathlib import Path
from typing import Any, NamedTuple

from client.errors import BadUsage
from client.files import hash_file, load_document, load_policy
from client.packing import find_file
from schemas.errors import Fault, InvalidRequest
from schemas.inspection import InspectionRequest
from schemas.policy import Policy
from schemas.request import AuditRequest, read_precision
from schemas.validation import check_document

ARTIFACT = "artifact:sha256:"
PLACES = ("https://", "http://", "s3://", "file:///")
"""What begins so is fetched by the service's workers; docs/fetching.md."""
PLACEHOLDER = {"uri": ARTIFACT + "0" * 64}
"""Stands for a file that could not be read, so that the rest of the request can be checked all the same."""
GATE = "gate"
"""What `--precision` says for the thresholds of the policy."""
SET_NAMES = {
    "norm": "norm",
    "epsilon": "epsilon",
    "n": "max_corrupted",
    "max_corrupted": "max_corrupted",
    "scale": "scale",
    "rounding": "rounding",
    "granularity": "granularity",
}
SET_LISTS = frozenset({"epsilon", "max_corrupted"})
LIMIT_NAMES = frozenset({"metric", "drop", "loss_change"})
POINT_FIELDS = ("metric", "drop", "loss_change", "scope", "along", "norm", "epsilon", "range", "max_corrupted", "scale")
POINT_NAMES = {name: name for name in POINT_FIELDS} | {"n": "max_corrupted"}


class AuditOptions(NamedTuple):
    """What the command line says about the request, as it was typed."""

    model: str | None = None
    data: str | None = None
    evaluate_on: str | None = None
    request: Path | None = None
    policy: Path | None = None
    sets: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    breaking_points: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    target: str | None = None
    data_format: str | None = None
    classes: str | None = None
    loss: str | None = None
    objective: str | None = None
    output_kind: str | None = None
    metrics: tuple[str, ...] = ()
    method: str | None = None
    budget_passes: int | None = None
    random_trials: int | None = None
    seed: int | None = None
    max_examples: int | None = None
    precision: str | None = None
    labels: tuple[str, ...] = ()
    fresh: bool = False
    device: str | None = None
    priority: int | None = None
    deadline_s: float | None = None


class PreparedAudit(NamedTuple):
    """A request that was checked, and the files that must be uploaded for it, by digest."""

    request: AuditRequest
    uploads: dict[str, Path]


class PreparedInspection(NamedTuple):
    """The same for an inspection."""

    request: InspectionRequest
    uploads: dict[str, Path]


class _Draft(NamedTuple):
    """The request as it grows."""

    document: dict[str, Any]
    uploads: dict[str, Path]


def prepare_audit(options: AuditOptions) -> PreparedAudit:
    """Return the request that the options and the request file make together.

    Raises:
        BadUsage: with every fault in options and files.

    """
    draft = _Draft(_load_request(options.request), {})
    faults: list[Fault] = []
    for step in (_add_model, _add_data, _add_policy, _add_cells, _add_loss_file, _add_objective, _add_precision, _add_rest):
        try:
            step(draft, options)
        except BadUsage as error:
            faults += error.faults
    try:
        request = check_document(AuditRequest, draft.document)
    except InvalidRequest as error:
        file = f"{options.request}#" if options.request is not None else "the request, "
        faults += (Fault(one.what, file + one.where, one.expected, one.got, one.advice) for one in error.faults)
        raise BadUsage(*faults) from error
    if faults:
        raise BadUsage(*faults)
    return PreparedAudit(request, draft.uploads)


def prepare_inspection(options: AuditOptions) -> PreparedInspection:
    """Return the inspection that the options ask for; only model, data and how it is read are looked at.

    Raises:
        BadUsage: with every fault in options and files.

    """
    draft = _Draft({"fresh": options.fresh}, {})
    _add_artifact(draft, "model", options.model, "faultline inspect MODEL")
    if options.data is not None:
        _add_artifact(draft, "data", options.data, "faultline inspect MODEL --data DATA")
        draft.document["data"] |= _read_data_options(options)
    try:
        return PreparedInspection(check_document(InspectionRequest, draft.document), draft.uploads)
    except InvalidRequest as error:
        raise BadUsage(*error.faults) from error


def read_pairs(text: str, option: str, names: dict[str, str]) -> dict[str, str]:
    """Return what `name=value,name=value` says, under the names of the contract.

    Raises:
        BadUsage: when it says something else.

    """
    pairs: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        known = names.get(name)
        if not equals or not value or known is None or known in pairs:
            expected = f"name=value pairs with commas between, each name once: {', '.join(names)}"
            raise BadUsage(
                Fault(f"{option} cannot be read", option, expected, text, f"Write it like {option} {EXAMPLES[option]}")
            )
        pairs[known] = value
    return pairs


EXAMPLES = {
    "--set": '"norm=2,epsilon=0.01/0.1,n=all/100"',
    "--breaking-point": '"metric=accuracy,drop=0.05,norm=2,range=0.001/10"',
    "--label": "branch=main",
    "--input": "x=images",
}


def _load_request(path: Path | None) -> dict[str, Any]:
    document = {} if path is None else load_document(path)
    if not isinstance(document, dict):
        got = type(document).__name__
        raise BadUsage(
            Fault("the request file says nothing", str(path), "an object with the fields of a request", got, "Correct it.")
        )
    return dict(document)


def _add_model(draft: _Draft, options: AuditOptions) -> None:
    _add_artifact(draft, "model", options.model, "faultline audit MODEL --data DATA")


def _add_data(draft: _Draft, options: AuditOptions) -> None:
    _add_artifact(draft, "data", options.data, "faultline audit MODEL --data DATA")
    data = draft.document["data"]
    if isinstance(data, dict):
        data |= _read_data_options(options)
    if options.evaluate_on is not None:
        _add_artifact(draft, "evaluate_on", options.evaluate_on, "--evaluate-on FILE")
        held_out = draft.document["evaluate_on"]
        if isinstance(data, dict) and isinstance(held_out, dict):  # read alike unless the request says otherwise
            draft.document["evaluate_on"] = {
                name: value for name, value in data.items() if name not in {"uri", "sha256", "format", "max_examples"}
            } | held_out


def _read_data_options(options: AuditOptions) -> dict[str, Any]:
    """Return the fields of `data` that options give; several columns after an --input form one vector."""
    pairs = [_split_pair(text, "--input") for text in options.inputs]
    inputs = {name: value.split(",") if "," in value else value for name, value in pairs}
    given = {
        "inputs": inputs or None,
        "target": options.target,
        "format": options.data_format,
        "classes": options.classes.split(",") if options.classes else None,
        "max_examples": options.max_examples,
    }
    return {name: value for name, value in given.items() if value is not None}


def _add_artifact(draft: _Draft, section: str, named: str | None, usage: str) -> None:
    """Name the file by its digest in the request, and remember to upload it."""
    given = draft.document.get(section)
    if named is None and given is not None:
        return
    part = dict(given) if isinstance(given, dict) else {}
    draft.document[section] = part | PLACEHOLDER
    if named is None:
        raise BadUsage(
            Fault(f"no {section} is named", section, "a file, or a request file that names one", "nothing", f"Call {usage}")
        )
    if named.startswith((ARTIFACT, *PLACES)):
        draft.document[section] = part | {"uri": named}
        return
    path = find_file(Path(named))
    digest = hash_file(path)
    draft.uploads[digest] = path
    draft.document[section] = part | {"uri": ARTIFACT + digest}


def _add_policy(draft: _Draft, options: AuditOptions) -> None:
    if options.policy is not None:
        draft.document.pop("policy", None)
        draft.document["policy"] = load_policy(options.policy).model_dump(mode="json")
    elif isinstance(draft.document.get("policy"), str) and options.request is not None:
        # A request file may name its policy by a path beside it.
        path = options.request.parent / draft.document.pop("policy")
        draft.document["policy"] = load_policy(path).model_dump(mode="json")


def _add_cells(draft: _Draft, options: AuditOptions) -> None:
    if options.scopes:
        draft.document["scopes"] = [_read_scope(text) for text in options.scopes]
    if options.sets:
        draft.document["sets"] = [_read_set(text) for text in options.sets]
    if options.breaking_points:
        draft.document["breaking_points"] = [_read_point(text) for text in options.breaking_points]


def _add_loss_file(draft: _Draft, options: AuditOptions) -> None:
    """Name the file that computes the loss: the option's, or the one that the request file names by a path beside it."""
    before = draft.document.get("objective")
    given = dict(before) if isinstance(before, dict) else {}
    named = options.objective
    if named is None and isinstance(given.get("program"), str) and options.request is not None:
        named = str(options.request.parent / given["program"])
    if named is None:
        return
    if options.objective is not None:
        given["loss"] = "program"
    part = _Draft({"program": given.get("program")}, draft.uploads)
    try:
        _add_artifact(part, "program", named, "--objective FILE")
    finally:
        draft.document["objective"] = {"loss": "program", **given, "program": part.document["program"]}


def _add_objective(draft: _Draft, options: AuditOptions) -> None:
    objective = {"loss": options.loss, "output_kind": options.output_kind, "metrics": list(options.metrics) or None}
    search = {
        "method": options.method,
        "budget_passes": options.budget_passes,
        "random_trials": options.random_trials,
        "seed": options.seed,
    }
    for section, changes in (("objective", objective), ("search", search)):
        given = {name: value for name, value in changes.items() if value is not None}
        before = draft.document.get(section)
        if given and (before is None or isinstance(before, dict)):
            draft.document[section] = {**(before or {}), **given}


def _add_precision(draft: _Draft, options: AuditOptions) -> None:
    """Say when measuring may stop: at a relative error, or clear of what the policy demands."""
    if options.precision is None:
        return
    if options.precision != GATE:
        draft.document["precision"] = {"relative_error": options.precision}
        return
    if "policy" not in draft.document:
        advice = "Give one with --policy, or a relative error such as 0.05."
        raise BadUsage(Fault(f"--precision {GATE} has no thresholds", "--precision", "a policy", "none", advice))
    try:
        policy = check_document(Policy, draft.document["policy"])
    except InvalidRequest:
        return  # told with the rest of the request
    draft.document["precision"] = read_precision(policy).model_dump(mode="json")


def _add_rest(draft: _Draft, options: AuditOptions) -> None:
    if options.fresh:
        draft.document["fresh"] = True
    asked = {"device": options.device, "priority": options.priority, "deadline_s": options.deadline_s}
    draft.document.update({name: value for name, value in asked.items() if value is not None})
    before = draft.document.get("labels")
    if options.labels and (before is None or isinstance(before, dict)):
        draft.document["labels"] = {**(before or {}), **dict(_split_pair(text, "--label") for text in options.labels)}


def _read_scope(text: str) -> str | dict[str, str]:
    """Return a scope kind, or the named scope that `name=pattern` means."""
    name, equals, pattern = text.partition("=")
    return {"name": name, "match": pattern} if equals else text


def _read_set(text: str) -> dict[str, Any]:
    pairs = read_pairs(text, "--set", SET_NAMES)
    return {name: _split_list(value) if name in SET_LISTS else value for name, value in pairs.items()}


def _read_point(text: str) -> dict[str, Any]:
    pairs = read_pairs(text, "--breaking-point", POINT_NAMES)
    point: dict[str, Any] = {"limit": {name: pairs.pop(name) for name in LIMIT_NAMES & pairs.keys()}} | pairs
    if "range" in point:
        point["range"] = _split_list(point["range"])
    return point


def _split_list(text: str) -> list[str | None]:
    return [None if value == "all" else value for value in text.split("/")]


def _split_pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise BadUsage(
            Fault(f"{option} cannot be read", option, "name=value", text, f"Write it like {option} {EXAMPLES[option]}")
        )
    return name, value
