"""Where a weight has its output channels, for steps of quantisation that differ by channel."""

from worker.engine.models.program import Program, Step

LAST_AXIS = frozenset({"MatMul", "aten::matmul", "aten::mm", "aten::addmm", "aten::bmm"})
"""Operators whose second factor has a column per output channel."""
SECOND_AXIS = frozenset({"ConvTranspose", "aten::conv_transpose1d", "aten::conv_transpose2d", "aten::conv_transpose3d"})


def find_channel_axes(program: Program) -> dict[str, int]:
    """Return weight name -> axis of the output channels, for every weight; 0 where no operator says otherwise."""
    axes = dict.fromkeys(program.weights, 0)
    for step in program.steps:
        for name in step.inputs:
            if name in axes:
                axes[name] = _find_axis(step)
    return axes


def _find_axis(step: Step) -> int:
    if step.operator in LAST_AXIS or (step.operator == "Gemm" and not step.attributes.get("transB", 0)):
        return -1
    transposed = step.operator in SECOND_AXIS or step.attributes.get("transposed", False) is True
    return 1 if transposed else 0
