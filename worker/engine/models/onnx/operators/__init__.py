"""The operator table: every family, in the order of docs/onnx_operators.md."""

from worker.engine.models.onnx.operators import (
    activation,
    attention,
    control,
    convolution,
    creation,
    elementwise,
    indexing,
    linear,
    losses,
    microsoft,
    normalisation,
    padding,
    pooling,
    quantisation,
    recurrent,
    reduction,
    regions,
    resizing,
    shape,
    signal,
)
from worker.engine.models.onnx.registry import Family, Table

FAMILIES: tuple[Family, ...] = (
    elementwise.operator,
    activation.operator,
    linear.operator,
    convolution.operator,
    pooling.operator,
    normalisation.operator,
    recurrent.operator,
    attention.operator,
    reduction.operator,
    shape.operator,
    indexing.operator,
    creation.operator,
    padding.operator,
    resizing.operator,
    regions.operator,
    control.operator,
    signal.operator,
    quantisation.operator,
    losses.operator,
    microsoft.family,
)
TABLE = Table(FAMILIES)
