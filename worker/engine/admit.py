"""Admission: every reason why this model, this data and this objective do not go together, all at once."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from schemas.errors import AuditError, DataMismatch, Fault, ModelRefused, NoParameters
from worker.engine.data.dataset import Dataset, walk
from worker.engine.losses.checks import find_own_loss_faults
from worker.engine.models.half import HALVES
from worker.engine.models.program import InputSpec, Program
from worker.engine.objective import Objective
from worker.engine.shortage import is_out_of_memory


def check_model(program: Program) -> None:
    """Raise for a model that cannot be audited with any data: training mode, batch axes that differ, no weights."""
    faults = []
    if program.training:
        advice = "call model.eval() before you trace, script or export"
        what = "the model carries operators in training mode (dropout that drops, statistics that update)"
        faults.append(Fault(what, "/model", "a model exported in evaluation mode", "training mode", advice))
    if not program.inputs:
        advice = "export the network with its input as an input, not as a constant"
        faults.append(Fault("the model takes no input", "/model", "at least one input", "none", advice))
    fixed = [spec for spec in program.inputs if spec.shape and isinstance(spec.shape[0], int)]
    for spec in fixed if program.batch is None else []:
        advice = "export all inputs with a dynamic batch axis (dynamic_shapes, or dynamic_axes in the older exporter)"
        what = f"the batch axis of input {spec.name!r} is fixed at {spec.shape[0] if spec.shape else 0}, that of another is not"
        expected = "one size for all inputs, or a symbolic first axis"
        faults.append(Fault(what, f"/model/inputs/{spec.name}", expected, str(_show_shape(spec)), advice))
    if faults:
        raise ModelRefused(*faults)
    if not program.weights:
        advice = "check that the file holds the trained weights; integer-only and weightless graphs cannot be audited"
        raise NoParameters(
            Fault("the model holds no floating-point weights", "/model", "at least one floating-point weight", "none", advice)
        )


def check_data(program: Program, dataset: Dataset, objective: Objective) -> None:
    """Raise DataMismatch with every input or label that does not fit the model and the objective."""
    faults = [fault for spec in program.inputs for fault in _find_input_faults(spec, dataset)]
    if isinstance(objective.output, str) and not objective.has_output(program.outputs):
        advice = "leave objective.output out for the first output, or name one of the model's"
        expected = f"one of {list(program.outputs)}"
        faults.append(
            Fault("objective.output names no output of the model", "/objective/output", expected, objective.output, advice)
        )
    elif not objective.has_output(program.outputs):
        advice = f"number outputs from 0; the model has {list(program.outputs)}"
        expected = f"below {len(program.outputs)}"
        faults.append(
            Fault(
                "objective.output is beyond the model's last output", "/objective/output", expected, str(objective.output), advice
            )
        )
    if faults:
        raise DataMismatch(*faults)


def check_labels(dataset: Dataset, objective: Objective) -> None:
    """Raise DataMismatch for labels that fit no model with this objective: their dtype and their values."""
    faults = list(_find_target_faults(dataset, objective)) if objective.needs_labels else []
    if faults:
        raise DataMismatch(*faults)


def check_first_batch(program: Program, dataset: Dataset, objective: Objective, micro_batch: int) -> None:
    """Run one batch; raise DataMismatch when the model cannot run on it or its output does not fit the labels."""
    inputs, target = next(dataset.batches(micro_batch))
    try:
        with torch.no_grad():
            outputs = program.forward({}, inputs)
        output = objective.select_output(outputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        advice = "check the shapes, dtypes and value ranges of the inputs against the model's"
        what = "the model does not run on the first batch of the data"
        shapes = ", ".join(f"{name}: {list(value.shape)} {value.dtype}" for name, value in inputs.items())
        raise DataMismatch(
            Fault(what, "/data", "inputs that the model takes", f"{shapes}; {_first_line(error)}", advice)
        ) from error
    faults = list(_find_label_faults(output, target, dataset, objective)) if objective.is_known else []
    if objective.own_loss and objective.is_known and not faults:
        faults = list(find_own_loss_faults(program, (inputs, output, target), objective))
    if faults:
        raise DataMismatch(*faults)


def check_clean_loss(loss: float | None, non_finite: int) -> float:
    """Return the clean loss; raise when the uncorrupted model is already non-finite on the data."""
    if loss is None:
        advice = "check the data for NaN and infinite values and the model for overflow"
        what = f"the uncorrupted model gives non-finite outputs or losses on {non_finite} examples"
        raise AuditError(Fault(what, "/data", "finite outputs and losses", "non-finite", advice))
    return loss


def _find_input_faults(spec: InputSpec, dataset: Dataset) -> Iterator[Fault]:
    where = f"/data/inputs/{spec.name}"
    if spec.name not in dataset.columns:
        return
    value = dataset.columns[spec.name]
    if spec.dtype is not None and value.dtype != spec.dtype and not (spec.dtype in HALVES and value.dtype == torch.float32):
        wanted = str(spec.dtype).removeprefix("torch.")
        advice = f"save the array as {wanted}, for example with .astype('{wanted}')"
        yield Fault(
            f"model input {spec.name!r} has another dtype", where, wanted, str(value.dtype).removeprefix("torch."), advice
        )
    if spec.shape is not None and not _fits(spec.shape, tuple(value.shape)):
        advice = "save the array in the shape that the model was exported for"
        yield Fault(f"model input {spec.name!r} has another shape", where, _show_shape(spec), str(list(value.shape)), advice)
    bad = sum(_count_non_finite(part) for part in walk(value)) if value.dtype.is_floating_point else 0
    if bad:
        yield Fault(
            f"model input {spec.name!r} holds NaN or infinite values",
            where,
            "finite numbers",
            f"{bad} examples",
            "clean the data",
        )


def _count_non_finite(values: Tensor) -> int:
    """Return how many examples hold a NaN or an infinity."""
    finite = torch.isfinite(values)
    return 0 if finite.all() else int((~finite).reshape(len(values), -1).any(1).sum())


def _fits(spec: tuple[int | None, ...], shape: tuple[int, ...]) -> bool:
    return len(spec) == len(shape) and all(want is None or want == have for want, have in zip(spec[1:], shape[1:], strict=True))


def _show_shape(spec: InputSpec) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in spec.shape or ()) + "]"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]


def _find_target_faults(dataset: Dataset, objective: Objective) -> Iterator[Fault]:
    where, advice = "/data/labels", "check that data.target and objective.loss fit the model"
    dtype = dataset.labels.dtype
    shown = str(dtype).removeprefix("torch.")
    spec = None if objective.program is None else objective.program.label_spec
    if spec is not None and spec.dtype not in {None, dtype}:
        wanted = str(spec.dtype).removeprefix("torch.")
        yield Fault("the loss takes labels of another dtype", where, wanted, shown, f"save the labels as {wanted}")
    elif objective.has_classes and (dtype.is_floating_point or dtype == torch.bool):
        advice = "save class numbers as int64; one-hot labels need .argmax(-1)"
        yield Fault("labels must be class numbers", where, "int64", shown, advice)
    elif not objective.has_classes and not objective.own_loss and not dtype.is_floating_point:
        yield Fault(f"labels of {objective.loss} must be floating point", where, "float32", shown, advice)
    else:
        found = _summarise_labels(dataset, objective)
        if not found.counted:
            expected = f"labels other than {objective.ignore_index}"
            yield Fault("every label is ignored", where, expected, "none", "check ignore_index")
        elif found.non_finite:
            yield Fault("labels hold NaN or infinite values", where, "finite numbers", "non-finite", "clean the data")
        elif objective.loss == "bce_with_logits" and (found.least < 0 or found.largest > 1):
            got = f"[{found.least:g}, {found.largest:g}]"
            yield Fault("labels of bce_with_logits must lie in [0, 1]", where, "[0, 1]", got, advice)


class _Labels(NamedTuple):
    """What all labels together show: how many count and their range, how many are non-finite or outside the classes."""

    counted: int = 0
    least: float = math.inf
    largest: float = -math.inf
    non_finite: int = 0
    outside: int = 0


def _summarise_labels(dataset: Dataset, objective: Objective, classes: int = 0) -> _Labels:
    found = _Labels()
    for labels in dataset.walk_labels():
        counted = labels[objective.find_counted(labels)]
        if counted.numel():
            found = _Labels(
                found.counted + counted.numel(),
                min(found.least, float(counted.min())),
                max(found.largest, float(counted.max())),
                found.non_finite + int((~torch.isfinite(counted)).sum()),
                found.outside + int(((counted < 0) | (counted >= classes)).sum()),
            )
    return found


def _find_label_faults(output: Tensor, first: Tensor, dataset: Dataset, objective: Objective) -> Iterator[Fault]:
    where, advice = "/data/labels", "check that data.target and objective.loss fit the model"
    if not output.is_floating_point():
        yield Fault(
            "the output that the loss reads is not floating point", "/objective/output", "float", str(output.dtype), advice
        )
    elif objective.loss == "model_output":
        pass  # what it gives is checked by itself
    elif objective.loss == "program" and output.shape[:1] != (len(first),):
        expected = "one row per example"
        yield Fault(
            "the output that the loss reads has no examples", "/objective/output", expected, str(list(output.shape)), advice
        )
    elif objective.program is not None and not objective.metrics:
        pass
    elif objective.program is not None and (first.ndim != 1 or len(objective.program.outputs) != 1):
        got = f"labels {list(first.shape)}, outputs {list(objective.program.outputs)}"
        what, without = (
            "metrics beside a loss from a file need one output and one label per example",
            "leave objective.metrics out",
        )
        yield Fault(what, "/objective/metrics", "[examples, classes] and [examples]", got, without)
    elif objective.labels_by_model:
        if output.ndim < 2 or output.shape[0] != len(first):
            expected, got = "[examples, ..., classes]", str(list(output.shape))
            yield Fault(f"the output does not fit loss {objective.loss}", "/objective/output", expected, got, advice)
    elif objective.has_classes:
        yield from _find_class_faults(output, first, dataset, objective)
    elif output.shape != first.shape:
        yield Fault("labels and output differ in shape", where, str(list(output.shape)), str(list(first.shape)), advice)


def _find_class_faults(output: Tensor, first: Tensor, dataset: Dataset, objective: Objective) -> Iterator[Fault]:
    where = "/data/labels"
    if output.ndim < 2 or output.shape[:-1] != first.shape:
        expected = f"{list(output.shape[:-1])} for outputs {list(output.shape)}, classes last"
        turned = output.ndim > 2 and (output.shape[0], *output.shape[2:]) == first.shape
        advice = "set objective.class_axis to 1" if turned else "give one label per row of logits"
        yield Fault("labels and output differ in shape", where, expected, str(list(first.shape)), advice)
        return
    classes = output.shape[-1]
    found = _summarise_labels(dataset, objective, classes)
    if found.outside:
        got = f"{found.outside} labels outside, from {found.least:.0f} to {found.largest:.0f}"
        advice = "number classes from 0, or name the padding label in objective.ignore_index"
        yield Fault("labels lie outside the model's classes", where, f"0 to {classes - 1}", got, advice)
