"""ONNX's own conformance suite: how many cases pass, and why the others are refused.

    python -m benchmarks.conformance [--cases]

One line per reason; with --cases, the names under each. Exit code 1 if a case comes out wrong or fails to run, or fewer
than 1,700 pass.
"""

import argparse
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch

from tests.worker.engine.models.onnx.conformance import Verdict, find_node_cases, judge

ENOUGH = 1700


def format_table(verdicts: Sequence[Verdict], *, names: bool) -> str:
    """Return the counts by outcome, then by reason, the most frequent first."""
    counts = Counter(entry.outcome for entry in verdicts)
    lines = [f"onnx {onnx.__version__}: {len(verdicts)} node cases", ""]
    lines += [
        f"{counts[outcome]:6d}  {outcome}" for outcome in ("passed", "as the runtime", "refused", "wrong", "failed", "untestable")
    ]
    for outcome in ("as the runtime", "refused", "wrong", "failed", "untestable"):
        by_reason: dict[str, list[str]] = defaultdict(list)
        for entry in verdicts:
            if entry.outcome == outcome:
                by_reason[entry.reason].append(entry.name)
        if by_reason:
            lines += ["", f"{outcome}, by reason:"]
        for reason, cases in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
            lines.append(f"{len(cases):6d}  {reason}")
            lines += [f"          {name}" for name in cases] if names else []
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every case and print the table; return 0 if none is wrong and enough pass."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", action="store_true", help="name the cases under each reason")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        verdicts = [judge(case, Path(folder) / "model.onnx") for case in find_node_cases()]
    print(format_table(verdicts, names=options.cases))
    outcomes = Counter(entry.outcome for entry in verdicts)
    good = outcomes["passed"] >= ENOUGH and not outcomes["wrong"] and not outcomes["failed"] and not outcomes["untestable"]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
