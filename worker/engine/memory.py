"""How many examples run at once: chosen by what one example takes, fewer where memory runs out; method section 8."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor

from schemas.errors import Fault, MemoryLimit
from worker.engine.data.dataset import Dataset
from worker.engine.models.clean import take_inputs
from worker.engine.models.program import OMITTED, Program, run_steps
from worker.engine.shortage import find_free_bytes, is_out_of_memory, read_data_bytes, read_wanted_bytes, show_gib

ACTIVATION_BYTES = 64 * 2**20
"""Activations of one micro-batch on the CPU, about what its caches and its cores make good use of."""
ACCELERATOR_SHARE = 32
"""On an accelerator they take this part of its whole memory: the same on every device of a kind, whatever else runs there."""
LARGEST_MICRO_BATCH = 256
COPIES = 2
"""Beside the weights themselves an audit holds at least their gradient and one corrupted copy."""
DIRECTIONS = 2
"""A backward pass takes about as much again as the activations that it starts from."""
NO_EXAMPLE = "one example at a time does not fit in memory"
ADVICE = "ask the operator for a higher memory limit, or audit on a machine or device with more memory"


Result = TypeVar("Result")


class Holder(Protocol):
    """What keeps memory to save time."""

    def shed(self) -> None:
        """Give it back, and keep nothing from now on."""


@dataclass
class Shrinking:
    """How often memory ran out: each time the micro-batch is halved. holders: what gives memory back then."""

    halvings: int = 0
    holders: WeakSet[Holder] = field(default_factory=WeakSet)

    def halve(self, micro_batch: int, shortage: MemoryLimit) -> None:
        """Make room and go on with half; raise the shortage where one example was computed at a time with nothing kept."""
        if self.halvings >= micro_batch.bit_length():
            raise shortage
        self.halvings += 1
        for holder in self.holders:
            holder.shed()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def describe_shortage(error: BaseException, device: str) -> MemoryLimit:
    """Return what a user is told where `error` says that memory ran out, with what would have been needed at least."""
    used = torch.cuda.memory_allocated(device) if device.startswith("cuda") else read_data_bytes()
    return MemoryLimit(_describe(NO_EXAMPLE, used + read_wanted_bytes(error), used))


def _describe(what: str, needed: int, there: int) -> Fault:
    return Fault(what, "/model", f"at least {show_gib(needed)}", show_gib(there), ADVICE)


def check_file_fits(size_bytes: int) -> None:
    """Raise MemoryLimit for a model file larger than the memory that is free, before it is read."""
    free = find_free_bytes()
    if size_bytes > free:
        what = "the model is larger than the memory that is free"
        raise MemoryLimit(_describe(what, size_bytes, free))


def run_one_example(compute: Callable[[], Result], program: Program, dataset: Dataset) -> Result:
    """Return what `compute` gives, which runs the program on one example; MemoryLimit where that does not fit in memory."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        shortage = describe_shortage(error, "cpu")
    raise _describe_large_example(program, dataset, shortage)


def measure_example(program: Program, dataset: Dataset) -> int:
    """Return the bytes of all activations of the first example."""
    inputs, _ = next(dataset.batches(1))
    return run_one_example(lambda: _sum_activations(program, inputs), program, dataset)


def _describe_large_example(program: Program, dataset: Dataset, shortage: MemoryLimit) -> MemoryLimit:
    """Return `shortage`, which one example ran into, with what it needs in all, where that can be told without running it."""
    inputs = {name: value.to("meta") for name, value in next(dataset.batches(1))[0].items()}
    try:
        needed = _sum_activations(program.to("meta"), inputs)
    except (RuntimeError, NotImplementedError):  # a step looks at values, and there are none
        return shortage
    return MemoryLimit(_describe(NO_EXAMPLE, needed, find_free_bytes()))


def _sum_activations(program: Program, inputs: Mapping[str, Any]) -> int:
    """Return the bytes of everything that a forward pass on one example computes: of its share, where it runs on more."""
    environment: dict[str, Any] = {**program.constants, **program.weights, OMITTED: None}
    known = set(environment)
    environment.update(take_inputs(program, inputs))
    with torch.no_grad():
        run_steps(program.steps, environment, [()] * len(program.steps))
    total = sum(value.nbytes for name, value in environment.items() if name not in known and isinstance(value, Tensor))
    return total // (program.batch or 1)


def choose_micro_batch(example_bytes: int, device: str) -> int:
    """Return the power of two of examples whose activations take what is meant for them on such a device.

    >>> choose_micro_batch(2**20, "cpu")
    64
    """
    room = ACTIVATION_BYTES
    if device.startswith("cuda"):
        room = torch.cuda.get_device_properties(device).total_memory // ACCELERATOR_SHARE
    fitting = max(1, min(room // max(1, example_bytes), LARGEST_MICRO_BATCH))
    return 1 << (fitting.bit_length() - 1)


def plan_halvings(program: Program, example_bytes: int, micro_batch: int, device: str) -> int:
    """Return how often to halve the micro-batch before any work, so that gradient and copies fit in what is free.

    Raises:
        MemoryLimit: not even one example at a time fits.
    """
    weights = sum(weight.nbytes for weight in program.weights.values())
    moved = weights if device.startswith("cuda") else 0
    free = torch.cuda.mem_get_info(device)[0] if moved else find_free_bytes()
    fixed, each = COPIES * weights + moved, DIRECTIONS * example_bytes
    if fixed + each > free:
        what = "the model with its gradient and one example does not fit in the memory that is free"
        raise MemoryLimit(_describe(what, fixed + each, free))
    fitting = min(micro_batch, (free - fixed) // max(1, each))
    return micro_batch.bit_length() - fitting.bit_length()
