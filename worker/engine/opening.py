"""Open a session: read the model and the data, refuse what does not fit, compare with the runtime."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from schemas.errors import AuditError, UnsupportedOperator
from worker.engine.admit import check_data, check_first_batch, check_labels, check_model
from worker.engine.data.dataset import Dataset
from worker.engine.data.files import DataFile, Wanted
from worker.engine.data.reading import load_data
from worker.engine.losses.binding import bind_loss, load_loss, tell_objective
from worker.engine.losses.program import LossFile
from worker.engine.memory import Shrinking, check_file_fits, choose_micro_batch, measure_example, plan_halvings, run_one_example
from worker.engine.models.batch import probe_batch
from worker.engine.models.load import load_program, measure_parity
from worker.engine.models.program import Program
from worker.engine.models.running import audit_statistics
from worker.engine.objective import Objective
from worker.engine.population import Population, Sample
from worker.engine.refusals import Refusals
from worker.engine.session import Session

PARITY_EXAMPLES = 16


@dataclass(frozen=True)
class Opened:
    """A session on its device, how far our outputs are from the runtime's on its first examples, and the held-out data's.

    population: all of the data, where the session has only a sample of it.
    """

    session: Session
    parity: float
    held_out: Session | None
    population: Population | None = None


@dataclass(frozen=True)
class Source:
    """What to open: files, formats, and where and how to run."""

    model_path: Path
    data: DataFile
    objective: Objective = field(default_factory=Objective)
    model_format: str = "auto"
    device: str = "cpu"
    threads: int = 1
    micro_batch: int | None = None
    held_out: DataFile | None = None
    running_statistics: bool = False
    sample: Sample | None = None
    loss: LossFile | None = None


def fix_numerics(threads: int) -> None:
    """Make the process repeat itself bit for bit: fixed threads, deterministic kernels, no TF32."""
    torch.set_num_threads(threads)
    # Sets the same two flags as use_deterministic_algorithms, which imports torch's compiler as well: two seconds per process.
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # nothing reads what it did not write
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False


def open_session(source: Source, check_request: Callable[[Program], None] | None = None) -> Opened:
    """Load, admit and compare.

    Args:
        source: the files and how to read them.
        check_request: refuses what the request says of a model like this one; told together with the rest.

    Returns:
        The session.

    Raises:
        FaultlineError: naming every reason why this cannot be audited.
        RuntimeError: never; it tells the type checker that what is not there was refused.
    """
    fix_numerics(source.threads)
    refusals = Refusals()
    program, runs = _load_program(source, refusals)
    if program is not None:
        refusals.attempt(check_model, program)
    if program is not None and check_request is not None:
        refusals.attempt(check_request, program)
    objective = _load_objective(source, program, refusals)
    admit = partial(_admit_data, objective=objective, program=program, runs=runs)
    dataset = admit(source.data, refusals=refusals)
    told_once = partial(admit, objective=replace(objective, per_example=()))
    held_out = None if source.held_out is None else _admit_held_out(source.held_out, told_once, refusals)
    refusals.raise_any()
    if program is None or dataset is None:
        message = "what is missing was not refused"
        raise RuntimeError(message)
    program = probe_program(program, dataset, objective)
    example_bytes = measure_example(program, dataset)
    micro_batch = program.batch or source.micro_batch or choose_micro_batch(example_bytes, source.device)
    halvings = plan_halvings(program, example_bytes, micro_batch, source.device)
    session = _check_session(Session(program, dataset, objective, micro_batch, Shrinking(halvings)))
    parity = session.run(lambda: _measure_parity(session, source))
    judged = None if held_out is None else _check_session(replace(session, dataset=held_out)).to(source.device)
    if source.sample is None or source.sample.examples >= len(dataset):
        return Opened(session.to(source.device), parity, judged)
    population = Population(session, source.sample, source.device)
    return Opened(population.draw_search_sample(), parity, judged, population)


def _load_program(source: Source, refusals: Refusals) -> tuple[Program | None, bool]:
    """Return the program, as far as it could be read, and whether it can be run."""
    check_file_fits(source.model_path.stat().st_size)
    try:
        program = load_program(source.model_path, source.model_format)
        return (audit_statistics(program) if source.running_statistics else program), True
    except AuditError as error:
        refusals.errors.append(error)
        rest = error.partial if isinstance(error, UnsupportedOperator) else None
        return (rest if isinstance(rest, Program) else None), False


def _load_objective(source: Source, program: Program | None, refusals: Refusals) -> Objective:
    """Return the objective with the loss that a file computes, if one does, as far as it could be read."""
    objective, file = source.objective, source.loss
    loss = None if file is None else refusals.attempt(load_loss, file)
    if loss is None or program is None or not objective.has_output(program.outputs):
        return replace(objective, program=loss)
    [chosen] = objective.name_outputs(program.outputs)
    return replace(objective, program=refusals.attempt(bind_loss, loss, program.outputs, chosen, source.data.target))


def _admit_data(
    file: DataFile, *, objective: Objective, program: Program | None, runs: bool, refusals: Refusals
) -> Dataset | None:
    """Return the data; what does not fit the objective and the model, as far as it is known, is noted."""
    wanted = list_wanted(program, file, objective)
    dataset = refusals.attempt(load_data, file, wanted) if wanted.inputs or wanted.labels else None
    if dataset is None:
        return None
    fits = refusals.passes(check_labels, dataset, objective) or not objective.own_loss
    if program is not None and refusals.passes(check_data, program, dataset, objective) and runs and fits:
        refusals.attempt(run_one_example, partial(_check_one_example, program, dataset, objective), program, dataset)
    return dataset


def _check_one_example(program: Program, dataset: Dataset, objective: Objective) -> None:
    check_first_batch(probe_program(program, dataset, objective), dataset, objective, 1)


def probe_program(program: Program, dataset: Dataset, objective: Objective) -> Program:
    """Return the program with the number of examples that it runs on, where that is one number only and nothing declares it."""
    if program.batch is not None:
        return program
    inputs, _ = next(dataset.batches(1))

    def run(tried: Program, given: Mapping[str, Any]) -> torch.Tensor:
        with torch.no_grad():
            return objective.select_output(tried.forward({}, given))

    return probe_batch(program, inputs, run)


def _admit_held_out(file: DataFile, admit: Callable[..., Dataset | None], refusals: Refusals) -> Dataset | None:
    """Return the held-out data; what does not fit is told as a fault of `evaluate_on`."""
    own = Refusals()
    dataset = admit(file, refusals=own)
    for error in own.errors:
        faults = (replace(fault, where=fault.where.replace("/data", "/evaluate_on", 1)) for fault in error.faults)
        refusals.errors.append(type(error)(*faults))
    return dataset


def read_example(program: Program, file: DataFile) -> dict[str, Tensor]:
    """Return the inputs of the first examples of the data, which must fit the model; no labels are needed."""
    dataset = load_data(file, list_wanted(program, file, Objective("label_free")))
    check_data(program, dataset, Objective())
    inputs, _ = next(dataset.batches(min(program.batch or PARITY_EXAMPLES, PARITY_EXAMPLES)))
    return inputs


def list_wanted(program: Program | None, file: DataFile, objective: Objective) -> Wanted:
    """Return what the data must bring: optional inputs only where a column is named for them, as all where no model is known."""
    named = dict(file.columns)
    specs = (
        {} if program is None else {spec.name: spec.dtype for spec in program.inputs if not spec.optional or spec.name in named}
    )
    return Wanted(dict.fromkeys(named) if program is None else specs, objective.needs_labels, objective.label_dtype)


def _check_session(session: Session) -> Session:
    """Run the first batch; return the session with its labels, which the model gives itself where the loss needs none."""
    program, dataset, objective = session.program, session.dataset, session.objective
    session.run(lambda: check_first_batch(program, dataset, objective, session.batch_size))
    return session.run(lambda: label_by_model(session)) if objective.labels_by_model else session


def label_by_model(session: Session) -> Session:
    """Return the session with the clean model's own answers as the target."""
    objective = session.objective
    with torch.no_grad():
        outputs = [objective.select_output(session.program.forward({}, inputs)) for inputs, _ in session.batches()]
    return replace(session, dataset=session.dataset.with_labels(objective.make_target(torch.cat(outputs))))


def _measure_parity(session: Session, source: Source) -> float:
    few, target = next(session.dataset.batches(min(session.batch_size, PARITY_EXAMPLES)))
    parity = measure_parity(source.model_path, session.program, few, source.threads)
    loss = session.objective.program
    if loss is None:
        return parity
    with torch.no_grad():
        output = session.objective.select_output(session.program.forward({}, few))
    return max(parity, tell_objective(loss.measure_parity, output, target, source.threads))
