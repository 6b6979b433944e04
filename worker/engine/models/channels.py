"""Where a weight has its output channels, for steps of quantisation that differ by channel."""

from collections.abc import Callable

from worker.engine.models.program import Program, Step, walk_steps

Rule = Callable[[Step, int], int | None]
"""A step of one kind and the slot of the weight among its operands -> axis of the output channels, None where none has them."""

UNMOVED = frozenset({"identity", "cast"})
"""What computes a weight's values anew, or reads them off a grid, and leaves them where they are."""


def find_channel_axes(program: Program) -> dict[str, int | None]:
    """Return weight name -> axis of the output channels, for every weight.

    0 where no operator says otherwise; None where no axis has one channel to each place (blocks of channels).
    """
    axes: dict[str, int | None] = dict.fromkeys(program.weights, 0)
    same = {name: name for name in program.weights}
    for step in walk_steps(program.steps):
        operands = step.operands
        if step.plain_kind in UNMOVED and operands and operands[0] in same:
            same[step.outputs[0]] = same[operands[0]]
            continue
        for slot, name in enumerate(operands):
            if name in same:
                axes[same[name]] = _find_axis(step, slot)
    return axes


def _find_axis(step: Step, slot: int) -> int | None:
    return RULES.get(step.plain_kind, _lies_first)(step, slot)


def _lies_first(step: Step, _: int) -> int | None:
    return 1 if step.attributes.get("transposed", False) is True else 0


def _find_factor_axis(step: Step, slot: int) -> int:
    """A factor on the left has a row per output channel, one on the right a column, unless it is transposed."""
    attributes = step.attributes.get("arguments", step.attributes)
    left = slot == ("add" in step.plain_kind)
    turned = attributes.get("transA", 0) if left else attributes.get("transB", 0) or attributes.get("b_axis", 1) == 0
    return -2 if left != bool(turned) else -1


def _find_einsum_axis(step: Step, slot: int) -> int | None:
    """The one index of a factor that the result has and no other factor."""
    terms, _, result = str(step.attributes.get("equation", "")).partition("->")
    factors = terms.split(",")
    if slot >= len(factors) or not result or "." in terms:
        return None
    others = {letter for other, factor in enumerate(factors) for letter in factor if other != slot}
    own = [axis for axis, letter in enumerate(factors[slot]) if letter in result and letter not in others]
    return own[0] if len(own) == 1 else None


def _find_gate_axis(step: Step, slot: int) -> int:
    """ONNX: [directions, gates, inputs]; as the quantiser writes it, [directions, inputs, gates]. PyTorch: [gates, inputs]."""
    if "::" in step.operator:
        return 0
    return 2 if step.like is not None and slot in {1, 2} else 1


PRODUCTS = ("matmul", "fusedmatmul", "transposematmul", "gemm", "fusedgemm", "mm", "addmm", "bmm", "baddbmm")
RULES: dict[str, Rule] = {
    **dict.fromkeys(PRODUCTS, _find_factor_axis),
    **dict.fromkeys(("lstm", "gru", "rnn", "rnn_tanh", "rnn_relu"), _find_gate_axis),
    **dict.fromkeys(("convtranspose", "convtransposewithdynamicpads"), lambda *_: 1),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), lambda *_: 1),
    "attention": lambda *_: -1,
    "moe": lambda *_: 1,
    "einsum": _find_einsum_axis,
    "conv": lambda step, slot: (
        None if step.operator.startswith("com.microsoft.nchwc.") and slot == 1 else _lies_first(step, slot)
    ),
}
