"""What a TorchScript file stores: which tensors are weights, under which names, and which are not, and why."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from schemas.errors import Fault, ModelRefused
from worker.engine.models.aten.allowlist import split_names
from worker.engine.models.program import Grid, SkippedTensor

WEIGHT_ARGUMENTS = split_names("""
weight bias w_ih w_hh b_ih b_hh params flat_weights mat1 mat2 batch2 in_proj_weight in_proj_bias proj_weight proj_bias
qkv_weight qkv_bias norm_weight_1 norm_bias_1 norm_weight_2 norm_bias_2 ffn_weight_1 ffn_bias_1 ffn_weight_2 ffn_bias_2
""")
"""Arguments of operators that take weights by their meaning."""

STATISTICS_ARGUMENTS = frozenset({"running_mean", "running_var"})


@dataclass
class State:
    """The stored tensors of one file, sorted into weights and other constants.

    Rules. A floating-point parameter is a weight. A buffer is none: batch-norm running statistics, integers, and the
    rest (masks, tables) are skipped with their reason. In a file without parameters (frozen, or traced over captured
    tensors) a floating-point constant of at least one dimension is a weight, unless it holds running statistics, or
    stands in no weight's place and looks like a mask (holds a non-finite value, or at most two distinct ones); in a file with
    parameters only a constant in a weight's place is one. Constants without dimensions are literals of the arithmetic:
    neither weights nor listed.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    skipped: list[SkippedTensor] = field(default_factory=list)
    grids: dict[str, Grid] = field(default_factory=dict)
    has_parameters: bool = False
    _names: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def add_attribute(self, name: str, tensor: Tensor, *, is_parameter: bool) -> None:
        """Store a parameter or buffer under its dotted name; a tensor that is known already keeps its first name."""
        key = _identify(tensor)
        if key in self._names:
            return
        self._names[key] = name
        if is_parameter and tensor.is_floating_point():
            self.weights[name] = tensor
            self.modules[name] = name.rpartition(".")[0]
            self.has_parameters = True
            return
        self.constants[name] = tensor
        self._skip(name, tensor, "running_statistic" if name.rpartition(".")[2] in STATISTICS_ARGUMENTS else "not_a_weight")

    def add_grid(self, name: str, grid: Grid) -> None:
        """Store integers as the weight that they are in real units."""
        self.grids[name], self.weights[name] = grid, grid.decode(grid.codes)
        self.modules[name] = name.rpartition(".")[0]
        self.has_parameters = True

    def add_constant(self, name: str, argument: str, tensor: Tensor) -> str:
        """Store a constant of the graph, which some operator takes as `argument`; return the name it goes by."""
        key = _identify(tensor)
        if key in self._names:
            return self._names[key]
        while name in self.weights or name in self.constants:
            name += "_"
        self._names[key] = name
        if self._is_weight(argument, tensor):
            self.weights[name] = tensor
            self.modules[name] = name.rpartition(".")[0]
            return name
        self.constants[name] = tensor
        if tensor.dim():
            self._skip(name, tensor, "running_statistic" if argument in STATISTICS_ARGUMENTS else "not_a_weight")
        return name

    def find_name(self, tensor: Tensor) -> str | None:
        """Return the name of a stored tensor."""
        return self._names.get(_identify(tensor))

    def _is_weight(self, argument: str, tensor: Tensor) -> bool:
        if not tensor.is_floating_point() or tensor.dim() == 0 or argument in STATISTICS_ARGUMENTS:
            return False
        if argument.partition(".")[0] in WEIGHT_ARGUMENTS:
            return True
        return not self.has_parameters and not _looks_like_mask(tensor)

    def _skip(self, name: str, tensor: Tensor, reason: str) -> None:
        real = tensor.is_floating_point() or tensor.is_complex()
        self.skipped.append(SkippedTensor(name, tensor.numel(), reason if real else "integer"))


def read_state(module: Any) -> State:
    """Return the parameters and buffers of a loaded module.

    Raises:
        ModelRefused: if a tensor is not a dense one with memory of its own.
    """
    state = State()
    stored = [(name, tensor.detach(), True) for name, tensor in module.named_parameters()]
    stored += [(name, tensor.detach(), False) for name, tensor in module.named_buffers()]
    faults = [fault for name, tensor, kind in stored for fault in check_dense(name, tensor, is_parameter=kind)]
    if faults:
        raise ModelRefused(*faults)
    for name, tensor, is_parameter in stored:
        state.add_attribute(name, tensor, is_parameter=is_parameter)
    return state


def check_dense(name: str, tensor: Tensor, *, is_parameter: bool = False) -> list[Fault]:
    """Return what is wrong with a stored tensor: quantised, sparse, a complex weight, or more elements than bytes in the file."""
    if tensor.layout != torch.strided or tensor.is_quantized or (is_parameter and tensor.is_complex()):
        form = "quantised" if tensor.is_quantized else "complex" if tensor.is_complex() else str(tensor.layout)
        return [
            Fault(
                f"{name} is not a dense real tensor",
                where=name,
                expected="dense float or integer tensors",
                got=form,
                advice="audit the model before quantisation, or export it to ONNX",
            )
        ]
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return [
            Fault(
                f"{name} has more elements than its storage",
                where=name,
                expected=f"at most {tensor.untyped_storage().nbytes()} bytes",
                got=f"shape {tuple(tensor.shape)}",
                advice="store expanded tensors with .contiguous()",
            )
        ]
    return []


def _identify(tensor: Tensor) -> tuple[Any, ...]:
    if tensor.numel() == 0:
        return (id(tensor),)
    return (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())


def _looks_like_mask(tensor: Tensor) -> bool:
    values = tensor.flatten()
    if not math.isfinite(values.sum(dtype=torch.float64).item()):
        return True
    return bool(((values == values.min()) | (values == values.max())).all())
