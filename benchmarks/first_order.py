"""One first-order sweep, by the engine and by the plain script beside it, in comparable form."""

import hashlib
import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from worker.engine.cells import plan_cells
from worker.engine.corruption import CorruptionSet
from worker.engine.data.files import DataFile
from worker.engine.gradient import GradientInfo, compute_gradient
from worker.engine.opening import Source, open_session
from worker.engine.record import Clean, Pool
from worker.engine.scopes import Scope, find_scopes
from worker.engine.search import SearchSettings, search_cells
from worker.engine.session import Evaluator, Session

YARDSTICK = Path(__file__).with_name("straightforward.py")
LAUNCHER = """
import runpy, sys, time, torch
clock, optimised, *sys.argv = sys.argv[1:]
if clock == "cpu":
    time.perf_counter = time.process_time
with torch.jit.optimized_execution(optimised == "yes"):
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs the script, unchanged, in a process of its own, by one of two clocks and with TorchScript's optimiser on or off."""
OPTIMISER_FAULT = "Inference tensors cannot be saved for backward"
"""TorchScript's own differentiation of linear layers fails in the script's inference mode; without the optimiser it runs."""
FIRST_ORDER = SearchSettings(method="first_order", budget_passes=1, random_trials=0)

Clock = Literal["wall", "cpu"]
Cells = Literal["per_module", "model"]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Grid:
    """Norms x epsilons x max_corrupted, in every module; None: every weight of the module."""

    norms: tuple[float, ...]
    epsilons: tuple[float, ...]
    max_corrupted: tuple[int | None, ...] = (None,)

    def list_sets(self) -> list[CorruptionSet]:
        """Return the corruption sets in the order in which the script goes through them."""
        return [CorruptionSet(*entry) for entry in itertools.product(self.norms, self.epsilons, self.max_corrupted)]


@dataclass(frozen=True)
class CellKey:
    """What both sides call the same cell: the weights' values, wherever and under whatever name they are stored."""

    weights: str
    corruption_set: CorruptionSet


@dataclass(frozen=True)
class CellFigures:
    """What a cell came to."""

    scope: str
    predicted: float
    loss_change: float
    accuracy: float


@dataclass(frozen=True)
class SweepResult:
    """All cells of a sweep, the clean loss, and the seconds from the loaded model to the last cell."""

    clean_loss: float
    clean_accuracy: float
    cells: dict[CellKey, CellFigures]
    seconds: float


@dataclass(frozen=True)
class Run:
    """Files, data type, batch, clock and scopes of a sweep.

    One thread, so seconds of the processor are seconds of a free machine. cells: per_module, or model: one scope of all weights.
    """

    model: Path
    data: Path
    grid: Grid
    dtype: torch.dtype = torch.float32
    batch: int = 64
    clock: Clock = "wall"
    cells: Cells = "per_module"


def run_yardstick(run: Run) -> SweepResult:
    """Run the plain script; the model is TorchScript."""
    result = _launch_yardstick(run)
    digests = _digest_modules(run.model) if run.cells == "per_module" else _digest_model(run.model)
    cells = {}
    for cell, corruption_set in zip(result["cells"], itertools.cycle(run.grid.list_sets()), strict=False):
        if (float(cell["p"]), cell["epsilon"]) != (corruption_set.norm, corruption_set.epsilon):
            message = f"the script's cells are in another order than expected, at {cell}"
            raise ValueError(message)
        figures = CellFigures(cell["scope"], cell["predicted"], cell["loss_change"], cell["accuracy"])
        cells[CellKey(digests[cell["scope"]], corruption_set)] = figures
    seconds = result["seconds"]["total"] - result["seconds"]["load"]
    return SweepResult(result["clean_loss"], result["clean_accuracy"], cells, seconds)


def _launch_yardstick(run: Run) -> dict[str, Any]:
    grid = run.grid
    options = ["--cells", run.cells, "--json", "--threads", "1", "--batch", str(run.batch)]
    options += ["--dtype", str(run.dtype).removeprefix("torch.")]
    options += ["--p", *map(str, grid.norms), "--epsilon", *map(str, grid.epsilons)]
    options += ["--n", *(str(n or 0) for n in grid.max_corrupted)]
    ran = _launch(run, "yes", options)
    if ran.returncode and OPTIMISER_FAULT in ran.stderr:
        ran = _launch(run, "no", options)
    if ran.returncode:
        message = f"the script ended with exit code {ran.returncode}: {ran.stderr[-2000:]}"
        raise RuntimeError(message)
    return dict(json.loads(ran.stdout))


def _launch(run: Run, optimised: str, options: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", LAUNCHER, run.clock, optimised, str(YARDSTICK), str(run.model), str(run.data), *options]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@dataclass(frozen=True)
class Passes:
    """Seconds of one bare forward pass over the data, and of one with its backward pass."""

    forward: float
    gradient: float


def time_passes(run: Run) -> Passes:
    """Time TorchScript on nothing but what every method needs: no loss, no metrics, no corruption; the second pass of each."""
    model = torch.jit.load(str(run.model)).eval()
    inputs, clock, seconds = torch.from_numpy(np.load(run.data)["inputs"]), CLOCKS[run.clock], dict[bool, float]()
    for with_gradient in (False, True):
        for _ in range(3):  # its optimiser looks at the first two
            started = clock()
            for rows in inputs.split(run.batch):
                with torch.set_grad_enabled(with_gradient):
                    output = model(rows)
                if with_gradient:
                    output.sum().backward()
            seconds[with_gradient] = clock() - started
    return Passes(seconds[False], seconds[True])


def open_run(run: Run) -> Session:
    """Open the run's model and data in the engine, as an audit does."""
    session = open_session(Source(run.model, DataFile(run.data), threads=1, micro_batch=run.batch)).session
    return session if run.dtype == torch.float32 else session.cast(run.dtype)


def run_engine(session: Session, run: Run) -> SweepResult:
    """Measure every cell of the grid in every module by the engine, first order only."""
    weights = session.program.weights
    scopes = list_modules(session) if run.cells == "per_module" else find_scopes(["model"], list(weights), {})
    digests = {scope.name: digest_weights([weights[name] for name in scope.tensors]) for scope in scopes}
    clock = CLOCKS[run.clock]
    started = clock()
    gradient, clean = compute_clean(session)
    cells = {}
    for scope in scopes:
        evaluator = Evaluator(session, scope.tensors)
        planned = plan_cells(scope, evaluator.layout.size, run.grid.list_sets())
        for result in search_cells(evaluator, planned, gradient.flatten(scope.tensors), Pool(clean), FIRST_ORDER):
            outcome, asked_set = result.first_order, result.cell.corruption_set
            change = math.inf if outcome.loss is None else outcome.loss - clean.loss
            figures = CellFigures(scope.name, result.predicted, change, outcome.metrics["accuracy"] or 0.0)
            for asked in result.cell.asked:
                key = CellKey(digests[scope.name], CorruptionSet(asked_set.norm, asked_set.epsilon, asked))
                cells[key] = figures
    return SweepResult(clean.loss, clean.metrics["accuracy"], cells, clock() - started)


def compute_clean(session: Session) -> tuple[GradientInfo, Clean]:
    """Return the gradient over all data and the clean outcome."""
    gradient = compute_gradient(session, tuple(session.program.weights))
    metrics = {name: value for name, value in gradient.clean.metrics.items() if value is not None}
    if gradient.clean.loss is None:
        message = "the clean loss is not finite"
        raise ValueError(message)
    return gradient, Clean(gradient.clean.loss, metrics)


def digest_weights(tensors: Sequence[Tensor]) -> str:
    """Return a digest of the values alone, in float32: the same for transposed, renamed and reordered tensors."""
    values = torch.cat([tensor.detach().float().flatten() for tensor in tensors]).sort().values
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def list_modules(session: Session) -> list[Scope]:
    """Return one scope per module; weights of the network itself, in no module, are one scope, as in the script."""
    modules = session.program.modules
    loose = tuple(name for name in session.program.weights if not modules[name])
    held = [name for name in session.program.weights if modules[name]]
    return [*([Scope("per_module", "", loose)] if loose else []), *find_scopes(["per_module"], held, modules)]


def _digest_model(model: Path) -> dict[str, str]:
    return {"model": digest_weights([weight for _, weight in torch.jit.load(str(model)).named_parameters()])}


def _digest_modules(model: Path) -> dict[str, str]:
    groups: dict[str, list[Tensor]] = {}
    for name, weight in torch.jit.load(str(model)).named_parameters():
        groups.setdefault(name.rpartition(".")[0], []).append(weight)
    return {module: digest_weights(weights) for module, weights in groups.items()}
