"""Bar: the engine's first-order numbers equal the plain script's. `python -m benchmarks.compare [--quick]`.

Every module of the digits net x p in {1, 1.5, 2, inf} x 3 epsilons x n in {all, 100, 10}, in float32 and float64, for
the TorchScript and the ONNX file of the net whose BatchNorm was folded, and for the unfolded net in TorchScript.

Two computations agree when |difference| <= t (|x| + L(w)) for x the predicted and the measured loss change, t = 1e-5
in float32 and 1e-9 in float64 (docs/method.md, section "Agreement"), and the accuracies are equal. Accuracy may differ
by no more examples than there are whose two largest logits are closer than t x the largest logit: there rounding
decides the answer. Exit code 1 when a cell is off or is missing on one side.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.first_order import (
    CellKey,
    Grid,
    Run,
    SweepResult,
    compute_clean,
    digest_weights,
    list_modules,
    open_run,
    run_engine,
    run_yardstick,
)
from worker.engine.corruption import compute_closed_form
from worker.engine.session import Evaluator, Session

ARTIFACTS = Path(__file__).parent.parent / "examples" / "artifacts"
DATA = ARTIFACTS / "digits.npz"
GRID = Grid(norms=(1.0, 1.5, 2.0, float("inf")), epsilons=(0.01, 0.1, 1.0), max_corrupted=(None, 100, 10))
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
NETWORKS = {"digits_cnn.pt": ("digits_cnn.pt", "digits_cnn.onnx"), "digits_cnn_unfused.pt": ("digits_cnn_unfused.pt",)}
"""What the script runs, and the files of the same weights that the engine runs."""
QUICK_EXAMPLES = 64


@dataclass(frozen=True)
class Agreement:
    """The largest deviations of one engine run from the script, in units of |x| + L(w); accuracy in examples."""

    cells: int
    missing: int
    predicted: float
    loss_change: float
    clean_loss: float
    accuracy: int
    beyond_rounding: int
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether every cell is there and every deviation within its tolerance."""
        within = max(self.predicted, self.loss_change, self.clean_loss) <= self.tolerance
        return within and not self.missing and not self.beyond_rounding and self.cells > 0


def compare(script: SweepResult, engine: SweepResult, session: Session, tolerance: float) -> Agreement:
    """Return how far the engine's cells are from the script's."""
    loss, examples = script.clean_loss, len(session.dataset)
    shared = script.cells.keys() & engine.cells.keys()
    pairs = [(key, script.cells[key], engine.cells[key]) for key in shared]
    off = {key: round(abs(a.accuracy - b.accuracy) * examples) for key, a, b in pairs}
    excess = [count - count_undecided(session, key, tolerance) for key, count in off.items() if count]
    return Agreement(
        cells=len(shared),
        missing=len(script.cells.keys() ^ engine.cells.keys()),
        predicted=max((abs(a.predicted - b.predicted) / (abs(a.predicted) + loss) for _, a, b in pairs), default=0.0),
        loss_change=max((abs(a.loss_change - b.loss_change) / (abs(a.loss_change) + loss) for _, a, b in pairs), default=0.0),
        clean_loss=abs(script.clean_loss - engine.clean_loss) / loss,
        accuracy=max(off.values(), default=0),
        beyond_rounding=max([0, *excess]),
        tolerance=tolerance,
    )


def count_undecided(session: Session, key: CellKey, tolerance: float) -> int:
    """Return how many examples of a corrupted network have their two largest logits closer than rounding."""
    gradient, _ = compute_clean(session)
    weights = session.program.weights
    [tensors] = {
        scope.tensors
        for scope in list_modules(session)
        if digest_weights([weights[name] for name in scope.tensors]) == key.weights
    }
    corruption = compute_closed_form(gradient.flatten(tensors), key.corruption_set).corruption
    corrupted = Evaluator(session, tensors).layout.apply(corruption)
    with torch.no_grad():
        logits = session.objective.select_output(session.program.forward(corrupted, session.dataset.inputs))
    first, second = logits.double().topk(2).values.unbind(-1)
    return int((first - second <= tolerance * logits.abs().amax(-1)).sum())


def main() -> int:
    """Compare every network, file and data type; print the largest deviations."""
    parser = argparse.ArgumentParser(description="Compare the engine's first-order numbers with the plain script's.")
    parser.add_argument("--quick", action="store_true", help=f"the first {QUICK_EXAMPLES} examples only")
    quick = parser.parse_args().quick
    print(
        f"{'file':24s} {'dtype':8s} {'cells':>5s} {'missing':>7s} {'clean loss':>11s} {'predicted':>11s} {'loss change':>11s}",
        end="",
    )
    print(f" {'tolerance':>9s} {'accuracy off by':>15s}")
    with tempfile.TemporaryDirectory() as folder:
        data = write_first_examples(Path(folder), QUICK_EXAMPLES) if quick else DATA
        held = [compare_network(name, dtype, data) for name in NETWORKS for dtype in TOLERANCE]
    print("all within tolerance" if all(held) else "NOT within tolerance")
    return 0 if all(held) else 1


def compare_network(script_file: str, dtype: torch.dtype, data: Path) -> bool:
    """Run the script once and the engine on every file of the same weights."""
    script = run_yardstick(Run(ARTIFACTS / script_file, data, GRID, dtype))
    held = True
    for file in NETWORKS[script_file]:
        run = Run(ARTIFACTS / file, data, GRID, dtype)
        session = open_run(run)
        found = compare(script, run_engine(session, run), session, TOLERANCE[dtype])
        held = held and found.holds
        figures = f"{found.clean_loss:11.1e} {found.predicted:11.1e} {found.loss_change:11.1e} {found.tolerance:9.0e}"
        off = f"{found.accuracy} examples" + (f", {found.beyond_rounding} beyond rounding" if found.beyond_rounding else "")
        shown = str(dtype).removeprefix("torch.")
        print(f"{file:24s} {shown:8s} {found.cells:5d} {found.missing:7d} {figures} {off:>15s}", flush=True)
    return held


def write_first_examples(folder: Path, count: int) -> Path:
    """Write the first `count` examples to a file of their own."""
    path = folder / DATA.name
    with np.load(DATA) as arrays:
        np.savez(path, inputs=arrays["inputs"][:count], labels=arrays["labels"][:count])
    return path


if __name__ == "__main__":
    sys.exit(main())
