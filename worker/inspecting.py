"""Inspect a model: what the file holds, what of it can be audited, and whether we compute what its runtime computes."""

import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from schemas import inspection
from schemas.errors import AuditError, Fault, ModelRefused, OperatorFault, ParityError, UnsupportedOperator
from schemas.inspection import InspectionRequest
from schemas.problem import ProblemItem, build_problem, clean_text
from worker.context import Places
from worker.engine.admit import check_model
from worker.engine.components import COMPONENTS, find_components, find_depths
from worker.engine.models.load import load_program, measure_parity
from worker.engine.models.onnx.archive import read_model
from worker.engine.models.onnx.standard import read_opsets
from worker.engine.models.program import InputSpec, Program, walk_steps
from worker.engine.opening import fix_numerics, read_example
from worker.engine.scopes import Scope, find_scopes
from worker.engine.shortage import is_out_of_memory
from worker.phases import ReportProgress
from worker.sources import build_data_file

MADE_UP_EXAMPLES = 2
MADE_UP_SIZE = 8
"""Of an axis that takes any size, the batch aside."""
UNKNOWN_SHAPES = "the file does not say which shapes its inputs have; give data"


@dataclass(frozen=True)
class InspectionInput:
    """What the child is given."""

    request: InspectionRequest
    model_path: Path
    data_path: Path | None
    scratch: Path
    threads: int = 1


def inspect_model(job: InspectionInput, report_progress: ReportProgress) -> inspection.InspectionFigures:
    """Return what is inside a model.

    Operators that we do not support are listed, with as much of the rest as can be read; a file that must not be loaded, or
    that we cannot read at all, is refused by FaultlineError.
    """
    report_progress("loading", 0, 1)
    fix_numerics(job.threads)
    program, unsupported = _load(job)
    refusals = _find_refusals(program)
    report_progress("comparing", 0, 1)
    compared = _compare(job, program) if not unsupported else _Compared(build_parity("operators are not supported"))
    places = Places(find_components(program), find_depths(program))
    return inspection.InspectionFigures(
        format=cast("Any", program.format),
        producer=program.producer,
        opsets=_read_opsets(job.model_path, program),
        inputs=tuple(_show_input(spec) for spec in program.inputs),
        outputs=tuple(_show_output(name, compared.outputs.get(name)) for name in program.outputs),
        coverage=count_supported(program),
        components=_list_components(program, places),
        modules=_list_modules(program, places),
        tensors=(*_list_weights(program, places), *_list_others(program)),
        operators=_count_operators(program),
        parity=compared.parity,
        scan=tuple(_describe_scan(job.model_path, program)),
        missing=list_missing(unsupported),
        unsupported=_show_faults(unsupported),
        refusals=_show_faults((*refusals, *compared.faults)),
    )


def _load(job: InspectionInput) -> tuple[Program, tuple[Fault, ...]]:
    try:
        return load_program(job.model_path, job.request.model.format), ()
    except UnsupportedOperator as error:
        if not isinstance(error.partial, Program):
            raise
        return error.partial, error.faults


def _find_refusals(program: Program) -> tuple[Fault, ...]:
    try:
        check_model(program)
    except AuditError as error:
        return error.faults
    return ()


class _Compared(NamedTuple):
    """How our outputs compare with the runtime's, our outputs, and what of it forbids an audit."""

    parity: inspection.InspectedParity
    outputs: Mapping[str, Any] = {}
    faults: tuple[Fault, ...] = ()


def build_parity(
    reason: str | None, examples: int = 0, example: inspection.Example | None = None, difference: float | None = None
) -> inspection.InspectedParity:
    """Return the outcome of a comparison, or why there was none."""
    return inspection.InspectedParity(difference=difference, examples=examples, example=example, reason=reason)


def _compare(job: InspectionInput, program: Program) -> _Compared:
    data = job.request.data
    if data is not None and job.data_path is not None:
        kind: inspection.Example = "data"
        inputs = read_example(program, build_data_file(job.data_path, data, job.scratch))
    else:
        kind, made_up = "made_up", make_up_inputs(program.inputs)
        if made_up is None:
            return _Compared(build_parity(UNKNOWN_SHAPES))
        inputs = made_up
    examples = len(next(iter(inputs.values()), ()))
    try:
        with torch.no_grad():
            outputs = program.forward({}, inputs)
        difference = measure_parity(job.model_path, program, inputs, job.threads)
    except (AuditError, RuntimeError, ValueError, TypeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        # Inputs that were made up may be ones that the model does not take: what fails then proves nothing.
        faults = error.faults if isinstance(error, ModelRefused | ParityError) else ()
        return _Compared(build_parity(str(error).strip().partition("\n")[0][:300], examples, kind), {}, faults)
    return _Compared(build_parity(None, examples, kind, difference), outputs)


def make_up_inputs(specs: Sequence[InputSpec]) -> dict[str, Tensor] | None:
    """Return a seeded example for inputs of these specs: normal floats, zeros else; None where a shape is not known."""
    generator, inputs = torch.Generator().manual_seed(0), {}
    for spec in specs:
        if spec.optional:
            continue
        if spec.dtype is None or spec.shape is None:
            return None
        sizes = [MADE_UP_SIZE if size is None else size for size in spec.shape]
        if spec.shape and spec.shape[0] is None:
            sizes[0] = MADE_UP_EXAMPLES
        is_float = spec.dtype.is_floating_point
        inputs[spec.name] = (torch.randn(sizes, generator=generator) if is_float else torch.zeros(sizes)).to(spec.dtype)
    return inputs


def _read_opsets(path: Path, program: Program) -> dict[str, int]:
    if program.format != "onnx":
        return {}
    return {domain or "ai.onnx": version for domain, version in read_opsets(read_model(path).opset_import).items()}


def _show_dtype(dtype: torch.dtype | None) -> str | None:
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _show_input(spec: InputSpec) -> inspection.InspectedValue:
    return inspection.InspectedValue(name=spec.name, dtype=_show_dtype(spec.dtype), shape=spec.shape, optional=spec.optional)


def _show_output(name: str, value: Any) -> inspection.InspectedValue:
    dtype, shape = (value.dtype, tuple(value.shape)) if isinstance(value, Tensor) else (None, None)
    return inspection.InspectedValue(name=name, dtype=_show_dtype(dtype), shape=shape, optional=False)


def count_supported(program: Program) -> inspection.InspectedCoverage:
    """Return how many weights lead to an output through operators that are all supported."""
    # A node without a step makes nothing, so steps that lead to an output are those behind every hole.
    needed = set(program.outputs)
    for step in reversed(program.steps):
        if not needed.isdisjoint(step.outputs):
            needed.update(step.uses)
    supported = [weight for name, weight in program.weights.items() if name in needed]
    return inspection.InspectedCoverage(
        weights_total=sum(weight.numel() for weight in program.weights.values()),
        weights_supported=sum(weight.numel() for weight in supported),
        tensors_total=len(program.weights),
        tensors_supported=len(supported),
    )


def _list_components(program: Program, places: Places) -> tuple[inspection.InspectedComponent, ...]:
    grouped: dict[str, list[int]] = {}
    for name, weight in program.weights.items():
        grouped.setdefault(places.components[name], []).append(weight.numel())
    return tuple(
        inspection.InspectedComponent(component=kind, tensors=len(grouped[kind]), weights=sum(grouped[kind]))
        for kind in COMPONENTS
        if kind in grouped
    )


def _list_modules(program: Program, places: Places) -> tuple[inspection.InspectedModule, ...]:
    scopes = find_scopes(["per_module"], tuple(program.weights), program.modules)
    return tuple(
        inspection.InspectedModule(
            name=scope.name,
            tensors=len(scope.tensors),
            weights=sum(program.weights[name].numel() for name in scope.tensors),
            component=places.find_component(scope),
            depth=places.find_depth(scope),
        )
        for scope in scopes
    )


def _list_weights(program: Program, places: Places) -> Iterable[inspection.InspectedTensor]:
    for name, weight in program.weights.items():
        grid = program.storage.get(name)
        yield inspection.InspectedTensor(
            name=name,
            role="weight",
            module=program.modules[name] or None,
            component=places.components[name],
            depth=places.find_depth(Scope("per_tensor", name, (name,))),
            stored=_show_dtype(weight.dtype) if grid is None else grid.type_name,
            shape=tuple(weight.shape),
            elements=weight.numel(),
        )


def _list_others(program: Program) -> Iterable[inspection.InspectedTensor]:
    for entry in program.skipped:
        value = program.constants.get(entry.name)
        known = value if isinstance(value, Tensor) else None
        yield inspection.InspectedTensor(
            name=entry.name,
            role=cast("inspection.Role", entry.reason),
            module=None,
            component=None,
            depth=None,
            stored=None if known is None else _show_dtype(known.dtype),
            shape=None if known is None else tuple(known.shape),
            elements=entry.weights,
        )


def _count_operators(program: Program) -> tuple[inspection.InspectedOperator, ...]:
    counts = Counter(step.operator for step in walk_steps(program.steps))
    return tuple(inspection.InspectedOperator(operator=name, count=count) for name, count in sorted(counts.items()))


def _describe_scan(path: Path, program: Program) -> Iterable[inspection.ScanEntry]:
    """Yield what the scan went through; what it would not let pass has ended the inspection before."""
    found: dict[str, int] = {}
    if program.format == "onnx":
        model = read_model(path)
        external = {
            entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
        }
        found = {
            "nodes in the main graph": len(model.graph.node),
            "stored tensors": len(model.graph.initializer),
            "local functions": len(model.functions),
            "files with external data": len(external),
        }
    else:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        code = [entry for entry in entries if entry.filename.endswith(".py")]
        found = {
            "entries of the archive": len(entries),
            "source files checked line by line": len(code),
            "characters of source": sum(entry.file_size for entry in code),
            "pickles checked opcode by opcode": sum(entry.filename.endswith(".pkl") for entry in entries),
        }
    for what, count in ((what, count) for what, count in found.items() if count):
        yield inspection.ScanEntry(what=what, found=f"{count:,}")


def list_missing(faults: Sequence[Fault]) -> tuple[inspection.MissingOperator, ...]:
    """Return the operators among the faults."""
    return tuple(
        inspection.MissingOperator(
            operator=clean_text(fault.operator),
            domain=clean_text(fault.domain),
            count=fault.count,
            nodes=tuple(map(clean_text, fault.nodes)),
        )
        for fault in faults
        if isinstance(fault, OperatorFault)
    )


def _show_faults(faults: Sequence[Fault]) -> tuple[ProblemItem, ...]:
    return build_problem(AuditError(*faults)).errors if faults else ()
