"""Recognise operators that a file carries in training mode."""

from collections.abc import Sequence
from typing import Any

from worker.engine.models.aten.allowlist import strip_in_place
from worker.engine.models.aten.operators import Argument, Given

DROPOUTS = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout"})
CORE_NORMS = frozenset({"_native_batch_norm_legit", "_native_batch_norm_legit_functional"})
"""One overload keeps no statistics: an instance norm."""
RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})


def is_training_call(schema: Any, arguments: Sequence[Argument]) -> bool:
    """Return whether a call drops units, or normalises by the batch while it keeps running statistics.

    Such a call stays in training mode after `.eval()` when it was traced that way.
    """
    name = strip_in_place(schema.name.removeprefix("aten::"))
    values: dict[str, Any] = {
        formal.name: argument.value if isinstance(argument, Given) else argument
        for formal, argument in zip(schema.arguments, arguments, strict=True)
    }
    if name in DROPOUTS:
        return values["train"] is True and values["p"] != 0
    if name in RECURRENT:
        return values["train"] is True and values["dropout"] != 0
    if name == "bernoulli":
        return True
    if name == "scaled_dot_product_attention":
        return isinstance(values["dropout_p"], float) and values["dropout_p"] > 0
    if name in {"batch_norm", "native_batch_norm", "rrelu"} or (name in CORE_NORMS and "running_mean" in values):
        return values["training"] is True
    return name == "instance_norm" and values["use_input_stats"] is True and values["running_mean"] is not None
