"""Bar: a few searched bit flips destroy a network that as many random ones leave alone.

    python -m benchmarks.bit_flips [--trials 100]

The digits CNN in int8 (ONNX Runtime's static quantisation, QDQ, calibrated on its data) and in float32. For each: searched
flips until the accuracy falls below one half, the accuracy there, and the accuracy after as many random flips (mean and worst).
Flips that make NaN or Inf are left out of both. The biases of the int8 file are int32, whose high bits are far larger than any
weight, and so are the exponents of float32: the rows say what may flip. Exit code 1 when a random draw does as much damage
as the search where int8 weights alone may flip, or when accuracy does not fall below one half.
"""

import argparse
import logging
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from worker.engine.bits import FlipSettings, draw_random_flips, search_bit_flips
from worker.engine.data.files import DataFile
from worker.engine.gradient import compute_gradient
from worker.engine.opening import Source, open_session
from worker.engine.record import Clean
from worker.engine.session import Evaluator, Session
from worker.engine.tally import Outcome

ARTIFACTS = Path(__file__).parents[1] / "examples" / "artifacts"
DATA = ARTIFACTS / "digits.npz"
MOST_FLIPS = 100
LIMIT = 0.5
WITHOUT_EXPONENT = FlipSettings(kinds=frozenset({"sign", "mantissa"}))


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """The data in batches, for calibration."""

    def __init__(self, inputs: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
        self._batches = iter(np.array_split(inputs, 5))

    def get_next(self) -> dict[str, object] | None:
        """Return the next batch, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"x": batch}


def quantise_digits(folder: Path, *, per_channel: bool = False) -> Path:
    """Write the digits CNN in int8 and return its path."""
    path = folder / "digits_cnn_int8.onnx"
    with np.load(DATA) as data:
        reader = Batches(data["inputs"])
    quantize_static(ARTIFACTS / "digits_cnn.onnx", path, reader, quant_format=QuantFormat.QDQ, per_channel=per_channel)
    return path


def is_below(outcome: Outcome) -> bool:
    """Tell whether the accuracy is below the limit."""
    accuracy = outcome.metrics["accuracy"]
    return accuracy is not None and accuracy < LIMIT


def find_accuracy(outcome: Outcome) -> float:
    """Return the accuracy; an example whose output is not finite counts as wrong."""
    return outcome.metrics["accuracy"] or 0.0


def measure_row(label: str, session: Session, names: Sequence[str], settings: FlipSettings, trials: int) -> bool:
    """Search and draw in one scope, print a line, and return whether the search does more than any draw."""
    info, evaluator = compute_gradient(session, names), Evaluator(session, names)
    clean = Clean(info.clean.loss or 0.0, {"accuracy": find_accuracy(info.clean)})
    grids, gradient, counts = session.program.grids, info.flatten(names), range(1, MOST_FLIPS + 1)
    found = search_bit_flips(evaluator, grids, gradient, clean, counts, settings, is_below)
    reached = next((result for result in found.results if is_below(result.worst["accuracy"].outcome)), found.results[-1])
    worst = reached.worst["accuracy"]
    drawn = draw_random_flips(evaluator, grids, reached.count, trials, 0, settings)
    accuracies = [find_accuracy(trial.outcome) for trial in drawn.trials]
    broken = sum(trial.outcome.non_finite > 0 for trial in drawn.trials)
    kinds = ", ".join(sorted({flip.kind for flip in worst.flips}))
    print(
        f"{label:35s} {evaluator.layout.size:7d} {clean.metrics['accuracy']:6.3f} {reached.count:6d} "
        f"{find_accuracy(worst.outcome):9.3f} {reached.forward:5d}+{reached.backward:<3d} {statistics.mean(accuracies):7.3f} "
        f"{min(accuracies):7.3f} {broken:7d} {found.non_finite:8d} {kinds}",
        flush=True,
    )
    return is_below(worst.outcome) and find_accuracy(worst.outcome) < min(accuracies)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every row."""
    parser = argparse.ArgumentParser(description="Searched bit flips beside random ones, in int8 and float32.")
    parser.add_argument("--trials", type=int, default=100)
    asked = parser.parse_args(arguments)
    logging.getLogger().setLevel(logging.ERROR)  # the quantiser asks for a preparation that this network does not need
    with tempfile.TemporaryDirectory() as folder:
        sessions = {
            "int8": open_session(Source(quantise_digits(Path(folder)), DataFile(DATA))).session,
            "int8 per channel": open_session(Source(quantise_digits(Path(folder), per_channel=True), DataFile(DATA))).session,
        }
    plain = open_session(Source(ARTIFACTS / "digits_cnn.onnx", DataFile(DATA))).session
    print(f"flips until the accuracy is below {LIMIT}; then as many random flips, {asked.trials} times")
    print(
        f"{'what may flip':35s} {'weights':>7s} {'clean':>6s} {'flips':>6s} {'searched':>9s} {'passes':>9s} "
        f"{'random':>7s} {'worst':>7s} {'non-fin':>7s} {'NaN, Inf':>8s} kinds"
    )
    everything = FlipSettings()
    good = []
    for label, session in sessions.items():
        grids = session.program.grids
        names = tuple(name for name, grid in grids.items() if grid.bits == 8)
        good.append(measure_row(f"{label}, weights", session, names, everything, asked.trials))
        measure_row(f"{label}, int32 biases too", session, tuple(session.program.weights), everything, asked.trials)
    names = tuple(plain.program.weights)
    measure_row("float32, finite flips", plain, names, everything, asked.trials)
    measure_row("float32, no exponents", plain, names, WITHOUT_EXPONENT, asked.trials)
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
