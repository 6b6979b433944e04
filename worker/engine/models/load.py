"""Load a model of any supported format and compare its outputs with the runtime it is deployed in."""

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from schemas.errors import Fault, ModelUnreadable, ParityError
from worker.engine.models import onnx, pt2, torchscript
from worker.engine.models.batch import fill_batch, find_fixed_batch
from worker.engine.models.half import round_inputs, widen_halves
from worker.engine.models.program import Program

PARITY_TOLERANCE = 1e-3
"""Largest accepted |ours - runtime's| / (1 + |runtime's|); 1e-5 is usual in float32."""
PARITY_NEAR_LIMIT = 1e-4
ROUNDED_TOLERANCE = 0.1
"""The same for single numbers where values inside are rounded to integers; PARITY_TOLERANCE then holds for their mean. Two
right kernels may round a value between two codes to different sides, which moves what follows by whole steps."""


class Tolerance(NamedTuple):
    """What passes: the largest difference, their mean, and the largest that raises no doubt."""

    largest: float
    mean: float
    near: float


HALF_TOLERANCE = Tolerance(32.0, 4.0, 16.0)
"""The same in spacings of the 16 bits that a runtime computes in: each layer rounds its outputs to them, and ours does not."""


class Format(NamedTuple):
    """A model format: how it is read, and how the runtime runs it."""

    load: Callable[[Path], Program]
    run_reference: Callable[[Path, dict[str, Tensor], int], dict[str, Tensor]]


FORMATS: dict[str, Format] = {
    "onnx": Format(onnx.load_onnx, onnx.run_reference),
    "torchscript": Format(torchscript.load_torchscript, torchscript.run_reference),
    "pt2": Format(pt2.load_pt2, pt2.run_reference),
}


def load_program(path: Path, model_format: str = "auto") -> Program:
    """Read the model at `path`; `auto` tells zip archives by what is in them, and takes anything else for ONNX."""
    chosen = find_format(path) if model_format == "auto" else model_format
    program = widen_halves(FORMATS[chosen].load(path))
    return replace(program, batch=find_fixed_batch(program.inputs))


def find_format(path: Path) -> str:
    """Return the format that the file's content shows."""
    if path.stat().st_size == 0:
        advice = "check that the upload is complete"
        raise ModelUnreadable(
            Fault("the model file is empty", "/model", "an ONNX, TorchScript or torch.export file", "0 bytes", advice)
        )
    with path.open("rb") as file:
        start = file.read(4)
    if start != b"PK\x03\x04" and not zipfile.is_zipfile(path):
        return "onnx"
    return "pt2" if pt2.is_export_archive(path) else "torchscript"


def measure_parity(path: Path, program: Program, inputs: dict[str, Tensor], threads: int) -> float:
    """Return the largest |ours - runtime's| / (1 + |runtime's|) over all outputs on `inputs`.

    Returns:
        The difference; infinite differences (shapes, finiteness) never pass.

    Raises:
        ParityError: a difference above the tolerance, or one side is non-finite and the other is not.
    """
    filled = fill_batch(round_inputs(program, inputs), program.batch)
    reference = FORMATS[program.format].run_reference(path, filled, threads)
    with torch.no_grad():
        ours = program.forward({}, filled)
    found = {name: _compare(ours[name], value) for name, value in reference.items()}
    accepted = find_tolerance(program)
    faults = [
        _describe(name, largest, mean, accepted)
        for name, (largest, mean) in found.items()
        if not (largest <= accepted.largest and mean <= accepted.mean)
    ]
    if faults:
        raise ParityError(*faults)
    return max((largest for largest, _ in found.values()), default=0.0)


def find_tolerance(program: Program) -> Tolerance:
    """Return how far our outputs may be from those of the file's runtime."""
    if program.spacing:
        return Tolerance(*(program.spacing * limit for limit in HALF_TOLERANCE))
    return Tolerance(ROUNDED_TOLERANCE if program.rounds else PARITY_TOLERANCE, PARITY_TOLERANCE, PARITY_NEAR_LIMIT)


def _describe(name: str, largest: float, mean: float, accepted: Tolerance) -> Fault:
    return Fault(
        what=f"output {name!r} differs from the runtime's by {largest:.3g}",
        where=f"/model/outputs/{name}",
        expected=f"at most {accepted.largest:.3g} x (1 + |value|), on average {accepted.mean:.3g}",
        got=f"{largest:.6g}, on average {mean:.6g}",
        advice="the model may not be deterministic; else this is a fault of Faultline: please report the operators",
    )


def _compare(ours: Any, reference: Tensor) -> tuple[float, float]:
    """Return the largest and the mean |ours - reference| / (1 + |reference|)."""
    if not isinstance(ours, Tensor) or ours.shape != reference.shape:
        return float("inf"), float("inf")
    mine, theirs = ours.detach().double().cpu(), reference.double().cpu()
    if not torch.equal(torch.isfinite(mine), torch.isfinite(theirs)):
        return float("inf"), float("inf")
    finite = torch.isfinite(theirs)
    difference = ((mine - theirs).abs() / (1 + theirs.abs()))[finite]
    return (float(difference.max()), float(difference.mean())) if finite.any() else (0.0, 0.0)
