"""TorchScript's operators on Python values (int, float, str, list, dict), and those that lead from tensors to them."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn import functional

from schemas.errors import DataMismatch, Fault
from worker.engine.models.aten.allowlist import split_names

DTYPES: dict[int, torch.dtype] = {
    0: torch.uint8,
    1: torch.int8,
    2: torch.int16,
    3: torch.int32,
    4: torch.int64,
    5: torch.float16,
    6: torch.float32,
    7: torch.float64,
    8: torch.complex32,
    9: torch.complex64,
    10: torch.complex128,
    11: torch.bool,
    15: torch.bfloat16,
}
"""TorchScript writes a dtype as the number of its ScalarType."""

DTYPE_CODES: dict[torch.dtype, int] = {dtype: code for code, dtype in DTYPES.items()}


def run_if(branches: tuple[Callable[..., tuple[Any, ...]], ...], condition: Any) -> Any:
    """Run the first branch where the condition holds, else the second."""
    return _unwrap(branches[0 if condition else 1]())


def run_loop(bodies: tuple[Callable[..., tuple[Any, ...]], ...], trips: int, condition: Any, *carried: Any) -> Any:
    """Run the body up to `trips` times while its condition holds; a body maps (i, *carried) to (condition, *carried)."""
    iteration = 0
    while condition and iteration < trips:
        condition, *rest = bodies[0](iteration, *carried)
        carried = tuple(rest)
        iteration += 1
    return _unwrap(carried)


def _unwrap(values: tuple[Any, ...]) -> Any:
    return values[0] if len(values) == 1 else values


def raise_exception(message: Any, _kind: Any = None) -> NoReturn:
    """Report that a check inside the model failed on this data.

    Args:
        message: what the model's author wrote.
        _kind: the Python exception class it had.

    Raises:
        DataMismatch: always.
    """
    raise DataMismatch(
        Fault(
            "a check inside the model failed",
            where="forward",
            got=str(message),
            advice="give inputs of the shape the model expects",
        )
    )


def make_list(*values: Any) -> list[Any]:
    """prim::ListConstruct."""
    return list(values)


def make_tuple(*values: Any) -> tuple[Any, ...]:
    """prim::TupleConstruct."""
    return values


def make_dict(*values: Any) -> dict[Any, Any]:
    """prim::DictConstruct: keys and values alternate."""
    return dict(zip(values[0::2], values[1::2], strict=True))


def unpack(values: Sequence[Any]) -> Any:
    """prim::ListUnpack and prim::TupleUnpack."""
    return _unwrap(tuple(values))


def get_size(tensor: Tensor, dim: int | None = None) -> Any:
    """aten::size."""
    return list(tensor.shape) if dim is None else tensor.shape[dim]


def get_dtype(tensor: Tensor) -> int:
    """prim::dtype, as TorchScript's number."""
    return DTYPE_CODES[tensor.dtype]


def number_to_tensor(value: complex) -> Tensor:
    """prim::NumToTensor: int64 or float64, as in the runtime."""
    return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)


def make_tensor(
    data: Any = None, t: Any = None, dtype: torch.dtype | int | None = None, device: Any = None, requires_grad: Any = None
) -> Tensor:
    """aten::tensor and aten::as_tensor of numbers, nested lists or a tensor."""
    values = t if data is None else data
    wanted = DTYPES[dtype] if isinstance(dtype, int) else dtype
    if isinstance(values, Tensor):
        return values.to(device=device, dtype=wanted)
    return torch.tensor(values, dtype=wanted, device=device)


def convert(
    self: Tensor,
    other: Tensor | None = None,
    dtype: torch.dtype | int | None = None,
    device: Any = None,
    non_blocking: Any = None,
    copy: Any = None,
) -> Tensor:
    """aten::to in the forms that exist in TorchScript only."""
    wanted = DTYPES[dtype] if isinstance(dtype, int) else dtype
    if other is not None:
        wanted, device = other.dtype, other.device
    return self.to(device=device, dtype=wanted, copy=bool(copy))


def copy_values(self: Tensor, src: Tensor, non_blocking: Any = None) -> Tensor:
    """aten::copy, which has no derivative: what `self` would hold after `self.copy_(src)`."""
    return src.to(device=self.device, dtype=self.dtype).expand(self.shape)


def interpolate(
    tensor: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: Any = None, *more: Any
) -> Tensor:
    """aten::__interpolate and aten::__upsample."""
    return functional.interpolate(tensor, size, scale_factor, mode, align_corners, *more)


def append(values: list[Any], value: Any) -> list[Any]:
    """aten::append, without writing into the list."""
    return [*values, value]


def append_in_place(values: list[Any], value: Any) -> list[Any]:
    """aten::append."""
    values.append(value)
    return values


def set_item(values: Any, key: Any, value: Any) -> Any:
    """aten::_set_item, on lists and dictionaries."""
    values[key] = value
    return values


def extend_in_place(values: list[Any], more: list[Any]) -> list[Any]:
    """aten::extend."""
    values.extend(more)
    return values


def slice_list(values: Any, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    """aten::slice on lists and strings."""
    return values[start:end:step]


def range_length(low: int, high: int, step: int) -> int:
    """aten::__range_length."""
    return len(range(low, high, step))


def derive_index(index: int, start: int, step: int) -> int:
    """aten::__derive_index."""
    return start + index * step


def format_text(text: str, *values: Any) -> str:
    """aten::format; only `{}` places are filled, attribute access in a format string is not."""
    pieces = text.split("{}")
    filled = [f"{piece}{value}" for piece, value in zip(pieces, values, strict=False)]
    return "".join(filled + pieces[len(filled) :])


def power(base: float, exponent: float) -> float:
    """aten::pow on numbers: a float whatever the arguments are."""
    return float(base**exponent)


BUILTINS: dict[str, Callable[..., Any]] = {
    # arithmetic and comparison
    "aten::add": operator.add,
    "aten::sub": operator.sub,
    "aten::mul": operator.mul,
    "aten::div": operator.truediv,
    "aten::floordiv": operator.floordiv,
    "aten::remainder": operator.mod,
    "aten::mod": operator.mod,
    "aten::neg": operator.neg,
    "aten::pow": power,
    "aten::pow.int_to_int": operator.pow,
    "aten::eq": operator.eq,
    "aten::ne": operator.ne,
    "aten::lt": operator.lt,
    "aten::le": operator.le,
    "aten::gt": operator.gt,
    "aten::ge": operator.ge,
    "aten::__not__": operator.not_,
    "aten::__and__": operator.and_,
    "aten::__or__": operator.or_,
    "aten::__xor__": operator.xor,
    "aten::__lshift__": operator.lshift,
    "aten::__rshift__": operator.rshift,
    "aten::__is__": operator.is_,
    "aten::__isnot__": operator.is_not,
    "aten::sqrt": math.sqrt,
    "aten::exp": math.exp,
    "aten::log": math.log,
    "aten::log2": math.log2,
    "aten::log10": math.log10,
    "aten::sin": math.sin,
    "aten::cos": math.cos,
    "aten::tanh": math.tanh,
    "aten::ceil": math.ceil,
    "aten::floor": math.floor,
    "aten::round": round,
    "aten::isinf": math.isinf,
    "aten::isnan": math.isnan,
    "aten::isfinite": math.isfinite,
    "prim::abs": abs,
    "prim::max": max,
    "prim::min": min,
    "aten::sum": sum,
    "aten::all": all,
    "aten::any": any,
    # conversion
    "aten::Int": int,
    "aten::Float": float,
    "aten::Bool": bool,
    "aten::IntImplicit": int,
    "aten::FloatImplicit": float,
    "aten::ScalarImplicit": operator.methodcaller("item"),
    "aten::item": operator.methodcaller("item"),
    "prim::tolist": operator.methodcaller("tolist"),
    "aten::str": str,
    "aten::format": format_text,
    "prim::NumToTensor": number_to_tensor,
    "aten::tensor": make_tensor,
    "aten::as_tensor": make_tensor,
    "aten::to": convert,
    "aten::__interpolate": interpolate,
    # containers
    "aten::__getitem__": operator.getitem,
    "aten::__contains__": operator.contains,
    "aten::len": len,
    "aten::list": list,
    "aten::slice": slice_list,
    "aten::append": append_in_place,
    "aten::extend": extend_in_place,
    "aten::_set_item": set_item,
    "aten::insert": list.insert,
    "aten::copy": operator.methodcaller("copy"),
    "aten::keys": list,
    "aten::values": lambda mapping: list(mapping.values()),
    "aten::items": lambda mapping: list(mapping.items()),
    "aten::get": dict.get,
    "aten::__range_length": range_length,
    "aten::__derive_index": derive_index,
    "aten::startswith": str.startswith,
    "aten::endswith": str.endswith,
    "aten::join": str.join,
    "aten::lower": str.lower,
    "aten::upper": str.upper,
    # questions to a tensor that its values do not answer
    "aten::size": get_size,
    "aten::dim": Tensor.dim,
    "aten::ndimension": Tensor.dim,
    "aten::numel": Tensor.numel,
    "aten::stride": lambda tensor, dim=None: list(tensor.stride()) if dim is None else tensor.stride(dim),
    "aten::is_floating_point": Tensor.is_floating_point,
    "aten::is_complex": Tensor.is_complex,
    "aten::is_contiguous": Tensor.is_contiguous,
    "aten::element_size": Tensor.element_size,
    "prim::dtype": get_dtype,
    "prim::device": operator.attrgetter("device"),
    "prim::type": operator.attrgetter("type"),
    "prim::is_cuda": operator.attrgetter("is_cuda"),
    "prim::data": Tensor.detach,
    "prim::RaiseException": raise_exception,
}
"""What each builtin does; a name with overload goes before one without."""

IN_PLACE_BUILTINS: dict[str, Callable[..., Any] | None] = {
    "aten::append": append,
    "aten::extend": operator.add,
    "aten::_set_item": None,
    "aten::insert": None,
}
"""Builtins that write into their first argument, and the form that returns the result instead, where it is simple."""

CONSTANT_ANSWERS: dict[str, Any] = {
    "aten::is_grad_enabled": True,
    "prim::requires_grad": True,
    "aten::is_autocast_enabled": False,
    "aten::is_autocast_cpu_enabled": False,
    "aten::is_scripting": True,
    "prim::is_nested": False,
    "prim::is_sparse": False,
    "prim::is_quantized": False,
    "prim::is_mkldnn": False,
}
"""Questions to the surroundings with one answer in an audit.

"Is grad enabled" is always yes, so that a model with a fused inference branch (nn.TransformerEncoderLayer) takes
its differentiable one, in the gradient and in every measurement alike.
"""

FROM_VALUES = split_names(
    "aten::Int aten::Float aten::Bool aten::IntImplicit aten::FloatImplicit aten::ScalarImplicit aten::item prim::tolist"
)
"""Builtins that make Python values of a tensor's values, on which shapes may then depend."""

IGNORED = split_names("prim::Print aten::warn aten::_assert_async prim::AddStatValue")
"""Operators without effect on the result."""
