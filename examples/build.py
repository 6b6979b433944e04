"""Train the example networks from fixed seeds and write them with their data: `python -m examples.build`.

    python -m examples.build [--only NAME] [--out DIR]

The whole build takes a few minutes on two cores. Without --out it replaces the shipped artifacts; a complete build
into the default folder also rewrites the table in examples/README.md.
"""

import argparse
import copy
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from examples.digits import Examples
from examples.exporting import write_examples, write_onnx, write_torchscript
from examples.recipes import SEED, SHIPPED, TORCHSCRIPT_ONLY, Shipped

HERE = Path(__file__).parent
ARTIFACTS = HERE / "artifacts"
README = HERE / "README.md"
TABLE_START, TABLE_END = "<!-- table: written by examples/build.py -->", "<!-- end of table -->"


@dataclass(frozen=True)
class Built:
    """What was measured of one example on its held-out data, in float32."""

    name: str
    shipped: Shipped
    weights: int
    loss: float
    accuracy: float
    files: tuple[Path, ...]


def build_all(names: Sequence[str], folder: Path) -> list[Built]:
    """Build each example in a fresh process, two at a time: TorchScript numbers its classes per process."""
    with ProcessPoolExecutor(2, get_context("spawn"), max_tasks_per_child=1) as pool:
        return list(pool.map(build, names, repeat(folder)))


def build(name: str, folder: Path) -> Built:
    """Train one example and write its model files and its data."""
    # One thread and no choice of kernel: the order of additions is then fixed.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    shipped = SHIPPED[name]
    network = copy.deepcopy(shipped.train_network(SEED)).float()
    held_out = shipped.load_data()[1]
    if held_out.inputs.is_floating_point():
        held_out = Examples(held_out.inputs.float(), held_out.labels)
    files = [folder / f"{name}.pt"]
    write_torchscript(network, held_out, files[0])
    if name not in TORCHSCRIPT_ONLY:
        files.append(folder / f"{name}.onnx")
        write_onnx(network, held_out, files[1])
    write_examples(held_out, folder / f"{shipped.data}.npz")
    loss, accuracy = measure(network, held_out)
    weights = sum(weight.numel() for weight in network.parameters())
    return Built(name, shipped, weights, loss, accuracy, tuple(files))


def measure(network: nn.Module, examples: Examples) -> tuple[float, float]:
    """Return mean cross-entropy per label, in nats, and accuracy."""
    with torch.inference_mode():
        logits = network(examples.inputs).flatten(0, -2)
    labels = examples.labels.flatten()
    return cross_entropy(logits.double(), labels).item(), (logits.argmax(-1) == labels).double().mean().item()


def render_table(built: list[Built]) -> str:
    """Return the Markdown table of the built examples."""
    lines = ["| example | network | weights | data | clean loss | clean accuracy | files |", "|---|---|---|---|---|---|---|"]
    for entry in built:
        files = ", ".join(f"`{path.name}` ({path.stat().st_size:,} bytes)" for path in entry.files)
        cells = (entry.name, entry.shipped.description, f"{entry.weights:,}", f"`{entry.shipped.data}.npz`")
        lines.append(f"| {' | '.join(cells)} | {entry.loss:.4f} | {entry.accuracy:.4f} | {files} |")
    return "\n".join(lines)


def replace_table(text: str, table: str) -> str:
    """Return `text` with what stands between the two table marks replaced by `table`."""
    before, _, rest = text.partition(TABLE_START)
    _, _, after = rest.partition(TABLE_END)
    return f"{before}{TABLE_START}\n{table}\n{TABLE_END}{after}"


def main() -> None:
    """Build what the command line asks for and print the table."""
    parser = argparse.ArgumentParser(description="Train the example networks and write their files.")
    parser.add_argument("--only", choices=sorted(SHIPPED), help="build one example; default: all")
    parser.add_argument("--out", type=Path, default=ARTIFACTS, help="folder to write to")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = render_table(build_all([arguments.only] if arguments.only else [*SHIPPED], arguments.out))
    print(table)
    if arguments.out == ARTIFACTS and not arguments.only:
        README.write_text(replace_table(README.read_text(encoding="utf-8"), table), encoding="utf-8")


if __name__ == "__main__":
    main()
