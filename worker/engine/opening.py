"""Open a session: read the model and the data, refuse what does not fit, compare with the runtime."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from schemas.errors import FaultlineError
from worker.engine.admit import check_data, check_first_batch, check_model
from worker.engine.data.dataset import Dataset
from worker.engine.data.npz import load_npz
from worker.engine.models.load import load_program, measure_parity
from worker.engine.models.program import OMITTED, Program, run_steps
from worker.engine.objective import Objective
from worker.engine.session import Session

ACTIVATION_BYTES = 64 * 2**20
LARGEST_MICRO_BATCH = 256
PARITY_EXAMPLES = 16


@dataclass(frozen=True)
class Opened:
    """A session on its device, how far our outputs are from the runtime's on its first examples, and the held-out data's."""

    session: Session
    parity: float
    held_out: Session | None


@dataclass(frozen=True)
class DataFile:
    """An `.npz` file, which array feeds which model input, and which holds the labels."""

    path: Path
    columns: tuple[tuple[str, str], ...]
    target: str


@dataclass(frozen=True)
class Source:
    """What to open: files, formats, which array feeds which input, and where and how to run."""

    model_path: Path
    data_path: Path
    objective: Objective = field(default_factory=Objective)
    model_format: str = "auto"
    columns: tuple[tuple[str, str], ...] = ()
    target: str = "labels"
    device: str = "cpu"
    threads: int = 1
    micro_batch: int | None = None
    held_out: DataFile | None = None


def fix_numerics(threads: int) -> None:
    """Make the process repeat itself bit for bit: fixed threads, deterministic kernels, no TF32."""
    torch.set_num_threads(threads)
    # Sets the same two flags as use_deterministic_algorithms, which imports torch's compiler as well: two seconds per process.
    torch.set_deterministic_debug_mode("warn")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False


def open_session(source: Source) -> Opened:
    """Load, admit and compare; raise a FaultlineError that names every reason why this cannot be audited."""
    fix_numerics(source.threads)
    program = load_program(source.model_path, source.model_format)
    check_model(program)
    names = [spec.name for spec in program.inputs if not spec.optional or spec.name in dict(source.columns)]
    dataset = load_npz(source.data_path, dict(source.columns), source.target if source.objective.needs_labels else None, names)
    check_data(program, dataset, source.objective)
    check_first_batch(program, dataset, source.objective, 1)
    micro_batch = source.micro_batch or choose_micro_batch(program, dataset)
    check_first_batch(program, dataset, source.objective, micro_batch)
    if not source.objective.needs_labels:
        dataset = label_by_model(program, dataset, source.objective, micro_batch)
    few, _ = next(dataset.batches(min(micro_batch, PARITY_EXAMPLES)))
    parity = measure_parity(source.model_path, program, few, source.threads)
    session = Session(program, dataset, source.objective, micro_batch)
    held_out = None if source.held_out is None else _open_held_out(session, source.held_out, names).to(source.device)
    return Opened(session.to(source.device), parity, held_out)


def _open_held_out(session: Session, file: DataFile, names: Sequence[str]) -> Session:
    """Return the session on the held-out data; what does not fit is told as a fault of `evaluate_on`."""
    program, objective = session.program, session.objective
    try:
        dataset = load_npz(file.path, dict(file.columns), file.target if objective.needs_labels else None, names)
        check_data(program, dataset, objective)
        check_first_batch(program, dataset, objective, session.micro_batch)
    except FaultlineError as error:
        faults = (replace(fault, where=fault.where.replace("/data", "/evaluate_on", 1)) for fault in error.faults)
        raise type(error)(*faults) from error
    if not objective.needs_labels:
        dataset = label_by_model(program, dataset, objective, session.micro_batch)
    return replace(session, dataset=dataset)


def label_by_model(program: Program, dataset: Dataset, objective: Objective, micro_batch: int) -> Dataset:
    """Return the data with the clean model's own answers as the target."""
    with torch.no_grad():
        outputs = [objective.select_output(program.forward({}, inputs)) for inputs, _ in dataset.batches(micro_batch)]
    return replace(dataset, target=objective.make_target(torch.cat(outputs)))


def choose_micro_batch(program: Program, dataset: Dataset) -> int:
    """Return the power of two of examples whose activations fit ACTIVATION_BYTES, from the bytes of one example."""
    inputs, _ = next(dataset.batches(1))
    environment: dict[str, Any] = {**program.constants, **program.weights, OMITTED: None}
    known = set(environment)
    environment.update({spec.name: inputs.get(spec.name) for spec in program.inputs})
    with torch.no_grad():
        run_steps(program.steps, environment, [()] * len(program.steps))
    size = sum(value.nbytes for name, value in environment.items() if name not in known and isinstance(value, Tensor))
    fitting = max(1, min(ACTIVATION_BYTES // max(1, size), LARGEST_MICRO_BATCH))
    return 1 << (int(fitting).bit_length() - 1)
