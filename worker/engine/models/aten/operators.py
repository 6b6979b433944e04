"""From an operator's schema to the function, inputs and attributes of a step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from worker.engine.models.aten.allowlist import (
    RANDOM,
    SHAPE_QUERIES,
    VALUE_SHAPED,
    is_allowed_tensor_operator,
    split_names,
    strip_in_place,
)
from worker.engine.models.aten.attention import native_multi_head_attention, transformer_encoder_layer
from worker.engine.models.aten.builtins import BUILTINS, DTYPES, IN_PLACE_BUILTINS, copy_values

DEVICE = "program_device"
"""The name under which every step finds the device that the program is on."""

KEYWORD_BUILTINS = frozenset({"aten::tensor", "aten::as_tensor", "aten::to"})
"""Builtins that take dtype and device by keyword, as tensor operators do."""

REPLACED: dict[str, Callable[..., Any]] = {
    "_native_multi_head_attention": native_multi_head_attention,
    "_transformer_encoder_layer_fwd": transformer_encoder_layer,
    "copy": copy_values,
}
"""Tensor operators without a backward, and what computes the same with one."""

LIBRARY_SETTINGS = frozenset({"benchmark", "deterministic", "cudnn_enabled", "allow_tf32"})
"""Arguments of aten::_convolution that bake in the tracing process's settings; this process's own hold instead."""

_CONVOLUTION: Callable[..., Any] = torch.convolution

BOUND = split_names("""
add.Tensor cat contiguous div.Tensor embedding expand flatten.using_ints gelu hardsigmoid hardswish layer_norm linear
log_softmax.int masked_fill.Scalar matmul max_pool2d mean.dim mul.Tensor permute relu reshape select.int sigmoid silu
softmax.int sub.Tensor tanh transpose.int unsqueeze view
""")
"""Operators that Python reaches by a binding of its own as well, which takes half the time of a call by the dispatcher's name."""

UNDECLARED_ALIASES = split_names("""
dropout feature_dropout alpha_dropout feature_alpha_dropout type_as atleast_1d atleast_2d atleast_3d broadcast_tensors meshgrid
einsum sum_to_size rrelu tensordot pad
""")
"""Operators that may return their input although their schema does not say so."""

FLOAT_BY_DEFAULT = split_names("""
zeros ones empty eye linspace logspace rand randn normal empty_strided empty_permuted bartlett_window blackman_window
hamming_window hann_window scalar_tensor
""")
"""Factories that make float32 when no dtype is given."""


@dataclass(frozen=True)
class Given:
    """A value that is known when the file is read."""

    value: Any


@dataclass(frozen=True)
class Read:
    """A value that a step reads by name; `is_float` where TorchScript's types say that it is a Python float."""

    name: str
    is_float: bool = False


Argument = Given | Read


@dataclass(frozen=True)
class ByName:
    """Calls a function with its positional values under these argument names."""

    function: Callable[..., Any]
    names: tuple[str, ...]

    def __call__(self, /, *values: Any, **attributes: Any) -> Any:
        """Return function(name=value, ..., **attributes)."""
        return self.function(**dict(zip(self.names, values, strict=True)), **attributes)


@dataclass(frozen=True)
class Call:
    """An operator bound to its arguments."""

    function: Callable[..., Any]
    inputs: tuple[str, ...]
    attributes: dict[str, Any]
    functional: Callable[..., Any] | None = None


@cache
def parse_schema(text: str) -> Any:
    """Return the schema that a node prints."""
    return torch._C.parse_schema(text)  # noqa: SLF001 - the only reader of schemas there is


def find_tensor_operator(kind: str, overload: str) -> Callable[..., Any] | None:
    """Return what computes this operator with a backward, if it is allowed and there is one."""
    name = kind.partition("::")[2]
    found = find_dispatched(kind, overload)
    if found is not None and name == "_convolution":
        return _CONVOLUTION
    if found is not None and f"{name}.{overload}".rstrip(".") in BOUND:
        return _find_binding(name)
    return found if found is None else REPLACED.get(name, found)


def find_dispatched(kind: str, overload: str) -> Any | None:
    """Return the dispatcher's operator of this name, if it is allowed and there is one."""
    namespace, _, name = kind.partition("::")
    if namespace != "aten" or not is_allowed_tensor_operator(name):
        return None
    # TorchScript has overloads of its own where an optional list is not one of tensors; the plain one takes both.
    overload = {"Tensor_hacked_twin": "Tensor", "hacked_twin": "", "_unsafe_hacked_twin": ""}.get(overload, overload)
    qualified = f"{kind}.{overload}" if overload else kind
    if not torch._C._dispatch_has_kernel(qualified):  # noqa: SLF001 - asks without raising
        return None
    return getattr(getattr(torch.ops.aten, name), overload or "default")


def _find_binding(name: str) -> Callable[..., Any]:
    holders: tuple[Any, ...] = (torch, torch._C._nn, torch.Tensor)  # noqa: SLF001 - where torch.nn.functional has them from
    found: Callable[..., Any] = next(getattr(holder, name) for holder in holders if hasattr(holder, name))
    return found


def find_builtin(kind: str, overload: str) -> Callable[..., Any] | None:
    """Return the builtin of this name."""
    return BUILTINS.get(f"{kind}.{overload}") or BUILTINS.get(kind)


def find_functional(kind: str, overload: str) -> Callable[..., Any] | None:
    """Return what computes an in-place operator's result without writing."""
    if kind in IN_PLACE_BUILTINS:
        return IN_PLACE_BUILTINS[kind]
    return find_tensor_operator(f"aten::{strip_in_place(kind.removeprefix('aten::'))}", overload)


def bind(function: Callable[..., Any], schema: Any, arguments: Sequence[Argument]) -> Call:
    """Bind an operator to its arguments: what is read goes in as inputs, what is known as attributes under its name."""
    reads: list[tuple[Any, str]] = []
    attributes: dict[str, Any] = {}
    for formal, argument in zip(schema.arguments, arguments, strict=True):
        if function is _CONVOLUTION and formal.name in LIBRARY_SETTINGS:
            continue
        if isinstance(argument, Read):
            reads.append((formal, argument.name))
        elif _follows_device(formal, argument.value, schema):
            reads.append((formal, DEVICE))
        elif not _is_default(formal, argument.value):
            attributes[formal.name] = DTYPES.get(argument.value, argument.value) if formal.name == "dtype" else argument.value
    if _makes_float(schema, arguments, attributes, reads):
        attributes["dtype"] = torch.float32
    names = tuple(formal.name for formal, _ in reads)
    in_order = (
        function not in REPLACED.values()
        and names == tuple(formal.name for formal in schema.arguments if not formal.kwarg_only)[: len(names)]
    )
    called = function if in_order else ByName(_find_named(function, schema), names)
    return Call(called, tuple(name for _, name in reads), attributes)


def _find_named(function: Callable[..., Any], schema: Any) -> Callable[..., Any]:
    """Return what may be called by the schema's argument names: torch.sub and the like have others, and want a tensor first."""
    bound = f"{schema.name.removeprefix('aten::')}.{schema.overload_name}".rstrip(".") in BOUND
    return find_dispatched(schema.name, schema.overload_name) or function if bound else function


def _follows_device(formal: Any, value: Any, schema: Any) -> bool:
    # A device that is baked in, and the default one of a factory, mean the program's; x.to(None) means the tensor's own.
    if formal.name != "device":
        return False
    return value is not None or str(schema.arguments[0].type) != "Tensor"


def _is_default(formal: Any, value: Any) -> bool:
    if formal.name in {"layout", "pin_memory"}:
        return True
    if not formal.has_default_value():
        return False
    return type(formal.default_value) is type(value) and bool(formal.default_value == value)


def _makes_float(schema: Any, arguments: Sequence[Argument], attributes: dict[str, Any], reads: list[tuple[Any, str]]) -> bool:
    if "dtype" in attributes or any(formal.name == "dtype" for formal, _ in reads):
        return False
    name = schema.name.removeprefix("aten::")
    if name in FLOAT_BY_DEFAULT:
        return any(formal.name == "dtype" for formal in schema.arguments)
    if name not in {"arange", "full", "tensor", "as_tensor", "range"}:
        return False
    return any(
        (isinstance(argument, Read) and argument.is_float) or (isinstance(argument, Given) and _holds_float(argument.value))
        for argument in arguments
    )


def _holds_float(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, list) and any(map(_holds_float, value)))


def is_in_place(schema: Any) -> bool:
    """Return whether the operator writes into its first argument (and no out= argument)."""
    arguments = schema.arguments
    return bool(arguments) and bool(arguments[0].is_write) and not any(argument.is_out for argument in arguments)


def has_output_argument(schema: Any) -> bool:
    """Return whether the operator writes into an argument that is not its first."""
    return any(argument.is_out or argument.is_write for argument in schema.arguments[1:])


def find_aliases(schema: Any, inputs: Sequence[str], outputs: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs (input, output) that may share memory by the schema, by undeclared habit, or as container and content."""
    name = strip_in_place(schema.name.removeprefix("aten::"))
    if name in UNDECLARED_ALIASES:
        return [(first, second) for first in inputs for second in outputs]
    pairs: list[tuple[str, str]] = []
    for returned, output in zip(schema.returns, outputs, strict=False):
        info = returned.alias_info
        if info is None:
            continue
        for formal, given in zip(schema.arguments, inputs, strict=False):
            if "*" in info.after_set | info.before_set or (formal.alias_info and formal.alias_info.before_set & info.before_set):
                pairs.append((given, output))
    return pairs


def is_random(kind: str) -> bool:
    """Return whether the operator always draws random numbers."""
    return strip_in_place(kind.removeprefix("aten::")) in RANDOM


def is_value_shaped(kind: str, overload: str) -> bool:
    """Return whether the shape of the operator's result depends on values."""
    name = kind.removeprefix("aten::")
    return name in VALUE_SHAPED or f"{name}.{overload}" in VALUE_SHAPED


def is_shape_query(kind: str) -> bool:
    """Return whether the operator asks for nothing but shape, dtype or place."""
    return kind in SHAPE_QUERIES or kind in {"aten::__is__", "aten::__isnot__"}
