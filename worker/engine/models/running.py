"""Running statistics as weights: the stored means and variances of a normalisation, made differentiable."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from worker.engine.models.program import Program, Step, walk_steps

GAIN, SHIFT, MEAN, VARIANCE = 1, 2, 3, 4
"""The slots of batch and instance normalisation, in ONNX as in aten."""


def audit_statistics(program: Program) -> Program:
    """Return the program with its running statistics among the weights; their module is that of the gain beside them."""
    found = [entry.name for entry in program.skipped if entry.reason == "running_statistic" and entry.name in program.constants]
    names = frozenset(found)
    beside = {
        name: program.modules[step.inputs[GAIN]]
        for step in walk_steps(program.steps)
        for name in step.inputs
        if name in names and len(step.inputs) > GAIN and step.inputs[GAIN] in program.modules
    }
    return replace(
        program,
        weights={**program.weights, **{name: program.constants[name] for name in found}},
        constants={name: value for name, value in program.constants.items() if name not in names},
        modules={**program.modules, **{name: beside.get(name, name.rpartition(".")[0]) for name in found}},
        skipped=tuple(entry for entry in program.skipped if entry.name not in names),
        statistics=names,
        steps=tuple(_let_move(step, names) for step in program.steps),
    )


def _let_move(step: Step, names: frozenset[str]) -> Step:
    blocks = tuple(replace(block, steps=tuple(_let_move(inner, names) for inner in block.steps)) for block in step.blocks)
    reads = not names.isdisjoint(step.inputs[MEAN : VARIANCE + 1])
    epsilon = step.attributes.get("eps", step.attributes.get("epsilon"))
    function = make_differentiable(step.function, epsilon) if reads and epsilon is not None else step.function
    return replace(step, function=function, blocks=blocks)


def make_differentiable(normalise: Callable[..., Any], epsilon: float) -> Callable[..., Any]:
    r"""Return the normalisation g (x - m) / sqrt(v + e) + b with gradients for m and v too; its values stay what they are.

    The kernels have none for them. At m', v', the same numbers without a gradient, it equals the normalisation with gain
    g r and shift b + (m' - m) g r / sqrt(v' + e), r = sqrt((v' + e) / (v + e)); there r is exactly 1 and m' - m exactly 0.
    """

    def compute(*inputs: Any, **attributes: Any) -> Any:
        x, gain, shift, mean, variance = inputs[: VARIANCE + 1]
        if not (mean.requires_grad or variance.requires_grad):
            return normalise(*inputs, **attributes)
        fixed_mean, fixed_variance = mean.detach(), variance.detach()
        ratio = ((fixed_variance + epsilon) / (variance + epsilon)).sqrt()
        moved = ratio if gain is None else gain * ratio
        rest = (fixed_mean - mean) * moved / (fixed_variance + epsilon).sqrt()
        shifted = rest if shift is None else shift + rest
        return normalise(x, moved, shifted, fixed_mean, fixed_variance, *inputs[VARIANCE + 1 :], **attributes)

    return compute
