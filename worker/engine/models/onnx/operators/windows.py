"""The sliding window that convolutions and pools share: kernel, strides, dilations, padding, output sizes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn import functional

from worker.engine.models.onnx.registry import Node


@dataclass(frozen=True)
class Window:
    """A window as the attributes give it; None where they leave it to the input's rank.

    `begin` and `end` are pads per axis; `same` asks for pads so that output = ceil(input / stride).
    """

    kernel: tuple[int, ...] | None
    strides: tuple[int, ...] | None
    dilations: tuple[int, ...] | None
    begin: tuple[int, ...] | None
    end: tuple[int, ...] | None
    same: str | None
    ceil: bool

    def spread(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Return strides, dilations and pads before and after, one per spatial axis."""
        ones, zeros = (1,) * rank, (0,) * rank
        return self.strides or ones, self.dilations or ones, self.begin or zeros, self.end or zeros

    def with_pads(self, begin: Sequence[int], end: Sequence[int]) -> "Window":
        """Return the window with other pads."""
        return replace(self, begin=tuple(begin), end=tuple(end), same=None)

    @property
    def is_symmetric(self) -> bool:
        """Whether torch's own padding says the same."""
        return self.same is None and self.begin == self.end

    def find_pads(self, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the pads before and after each axis for an input of these sizes."""
        strides, dilations, begin, end = self.spread(len(sizes))
        if self.same is None:
            return begin, end
        needed = [
            max(0, (-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size)
            for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
        ]
        small, large = tuple(n // 2 for n in needed), tuple(n - n // 2 for n in needed)
        return (small, large) if self.same == "SAME_UPPER" else (large, small)

    def find_sizes(self, sizes: Sequence[int], kernel: Sequence[int]) -> list[int]:
        """Return the output's sizes; a window that would start in the padding after the input does not count."""
        strides, dilations, *_ = self.spread(len(sizes))
        begin, end = self.find_pads(sizes, kernel)
        found = []
        for axis, size in enumerate(sizes):
            room = size + begin[axis] + end[axis] - ((kernel[axis] - 1) * dilations[axis] + 1)
            count = (-(-room // strides[axis]) if self.ceil else room // strides[axis]) + 1
            if self.ceil and (count - 1) * strides[axis] >= size + begin[axis]:
                count -= 1
            found.append(count)
        return found


def read_window(node: Node) -> Window:
    """Return the window of a convolution or pool."""
    attributes = node.attributes
    pads = attributes.get("pads")
    mode = attributes.get("auto_pad", "NOTSET")
    if mode != "NOTSET" or pads is None or not any(pads):
        pads = None
    half = len(pads) // 2 if pads else 0
    return Window(
        kernel=attributes.get("kernel_shape"),
        strides=attributes.get("strides"),
        dilations=attributes.get("dilations"),
        begin=pads[:half] if pads else None,
        end=pads[half:] if pads else None,
        same=mode if mode.startswith("SAME") else None,
        ceil=bool(attributes.get("ceil_mode", 0)),
    )


def pad_axes(x: Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> Tensor:
    """Return x with its last axes padded by a value; negative pads cut."""
    pairs = [amount for before, after in zip(reversed(begin), reversed(end), strict=True) for amount in (before, after)]
    return functional.pad(x, pairs, value=value) if any(pairs) else x
