"""Run a file of PyTorch as it is, for comparison: without gradients, and what goes wrong is told as the data's fault."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from schemas.errors import DataMismatch, Fault

ERRORS = (RuntimeError, TypeError, ValueError, IndexError, ArithmeticError, AssertionError)
HALVES = "a file in half precision takes its inputs in it (data.convert with dtype float16 or bfloat16)"


def run_as_written(run: Callable[[], Iterable[tuple[str, Tensor]]], threads: int, what: str, advice: str) -> dict[str, Tensor]:
    """Return what `run` yields.

    Args:
        run: runs the file; yields its outputs by name.
        threads: how many threads the run may use.
        what: what is told when it fails.
        advice: and what to do then.

    Returns:
        The outputs.

    Raises:
        DataMismatch: when it fails.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            return dict(run())
    except ERRORS as error:
        last_line = str(error).strip().rpartition("\n")[2]
        raise DataMismatch(Fault(what, where="forward", got=last_line, advice=f"{advice}; {HALVES}")) from error
    finally:
        torch.set_num_threads(before)
