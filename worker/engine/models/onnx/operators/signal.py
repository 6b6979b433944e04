"""Signals: windows and Fourier transforms, complex numbers as a last axis of two."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from worker.engine.models.onnx.registry import Family, Node

operator = Family("signal")


def _enter_window(name: str, compute: Callable[..., Tensor]) -> None:
    def window(size: Tensor, *, periodic: int = 1, output_datatype: torch.dtype = torch.float32) -> Tensor:
        count = int(size)
        if count == 1:
            return torch.ones(1, dtype=output_datatype, device=size.device)
        return compute(count, periodic=bool(periodic), dtype=torch.float64, device=size.device).to(output_datatype)

    window.__doc__ = f"The {name.removesuffix('Window')} window."
    operator(name, since=17, sizes=(0,))(window)


_enter_window("HannWindow", torch.hann_window)
_enter_window("BlackmanWindow", torch.blackman_window)
_enter_window("HammingWindow", lambda size, **options: torch.hamming_window(size, alpha=25 / 46, beta=21 / 46, **options))


def _transform(x: Tensor, length: Tensor | None, axis: int, *, inverse: bool, onesided: bool) -> Tensor:
    axis = axis % x.ndim
    size = None if length is None else int(length)
    if inverse and onesided:
        full = x.shape[axis] * 2 - 2 if size is None else size
        return torch.fft.irfft(torch.view_as_complex(x.contiguous()), full, axis).unsqueeze(-1)
    if x.shape[-1] == 1:
        values = x.squeeze(-1)
        if onesided:
            return torch.view_as_real(torch.fft.rfft(values, size, axis))
        complexes = torch.complex(values, torch.zeros_like(values))
    else:
        complexes = torch.view_as_complex(x.contiguous())
    compute = torch.fft.ifft if inverse else torch.fft.fft
    found = torch.view_as_real(compute(complexes, size, axis))
    return found.narrow(axis, 0, found.shape[axis] // 2 + 1) if onesided else found


@operator("DFT", since=20, sizes=(1, 2))
def fourier(
    x: Tensor, length: Tensor | None = None, axis: Tensor | None = None, *, inverse: int = 0, onesided: int = 0
) -> Tensor:
    """Discrete Fourier transform along one axis."""
    return _transform(x, length, -2 if axis is None else int(axis), inverse=bool(inverse), onesided=bool(onesided))


@operator("DFT", since=17, until=20, sizes=(1,))
def fourier_fixed(x: Tensor, length: Tensor | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0) -> Tensor:
    """Discrete Fourier transform along one axis, the axis as an attribute."""
    return _transform(x, length, axis, inverse=bool(inverse), onesided=bool(onesided))


@operator("STFT", since=17, sizes=(1, 3))
def short_time_fourier(
    signal: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None, *, onesided: int = 1
) -> Tensor:
    """Fourier transform of each windowed frame."""
    size = int(length) if length is not None else window.shape[0] if window is not None else signal.shape[1]
    frames = (
        signal.unfold(1, size, int(step)).movedim(2, 1) if signal.ndim == 2 else signal.unfold(1, size, int(step)).transpose(2, 3)
    )
    frames = frames if signal.ndim == 3 else frames.transpose(1, 2).unsqueeze(-1)
    weighted = frames if window is None else frames * window.reshape(1, 1, -1, 1)
    return _transform(weighted, None, 2, inverse=False, onesided=bool(onesided))


def _no_arguments(node: Node) -> dict[str, Any]:
    return {"dtype": node.attributes.get("output_datatype", torch.float32)}


@operator("MelWeightMatrix", since=17, sizes=(0, 1), prepare=_no_arguments)
def mel_matrix(bins: Tensor, size: Tensor, rate: Tensor, low: Tensor, high: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Weights that turn a linear spectrum into the mel scale."""
    count, spectrum = int(bins), int(size) // 2 + 1
    mels = [2595 * torch.log10(1 + edge.double() / 700) for edge in (low, high)]
    centres = mels[0] + torch.arange(count + 2, dtype=torch.float64, device=low.device) * (mels[1] - mels[0]) / (count + 2)
    places = torch.floor((int(size) + 1) * (700 * (10 ** (centres / 2595) - 1)) / int(rate))
    lower, centre, upper = places[:-2], places[1:-1], places[2:]
    row = torch.arange(spectrum, dtype=torch.float64, device=low.device).unsqueeze(1)
    rising = torch.where(centre == lower, (row == centre).double(), (row - lower) / (centre - lower))
    falling = (upper - row) / (upper - centre)
    inside = torch.where(row <= centre, torch.where(row >= lower, rising, 0.0), torch.where(row < upper, falling, 0.0))
    return inside.to(dtype)
