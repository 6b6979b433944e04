"""Load a TorchScript file as a program, and run the file itself for comparison."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from schemas.errors import Fault, ModelRefused, ModelUnreadable
from worker.engine.models.aten.assembly import Sketch, assemble
from worker.engine.models.aten.reference import run_as_written
from worker.engine.models.aten.results import flatten_result
from worker.engine.models.aten.state import read_state
from worker.engine.models.program import Program
from worker.engine.models.torchscript.arguments import gather, read_arguments
from worker.engine.models.torchscript.importer import Importer
from worker.engine.models.torchscript.scan import scan_archive
from worker.engine.models.torchscript.signature import draft_outputs, read_inputs
from worker.engine.models.torchscript.slots import Owner


def load_torchscript(path: Path) -> Program:
    """Return the program of a TorchScript file, traced or scripted, frozen or not.

    The archive is scanned before anything of it is loaded; the graph is checked against the operator allowlist before anything
    of it runs. Weights keep the file's names; tied ones are one weight.

    Args:
        path: the file.

    Returns:
        The program, in eval mode.

    Raises:
        ModelUnreadable: if the file is damaged or no TorchScript archive.
        ModelRefused: if it carries code that we will not run, or a forward that cannot be audited as it is.
        UnsupportedOperator: if it uses operators outside the table; all of them are named.
    """
    return import_module(open_module(path))


def run_reference(path: Path, inputs: dict[str, Tensor], threads: int) -> dict[str, Tensor]:
    """Return what the loaded TorchScript module itself gives, keyed like Program.outputs.

    Args:
        path: the file; it is scanned and its operators are checked as for load_torchscript.
        inputs: tensors by argument name.
        threads: how many threads the run may use.

    Returns:
        The outputs by name.

    Raises:
        DataMismatch: if the module fails on these inputs.
    """
    opened = open_module(path)
    import_module(opened)
    _, *values = opened.module.inlined_graph.inputs()
    arguments = read_arguments(opened.module.forward.schema.arguments[1:], values)
    given = gather(arguments, {name: value.clone() for name, value in inputs.items()})  # the module may write into them
    what, advice = "TorchScript cannot run the model on this data", "trace on the CPU if the file has a GPU baked in"
    return run_as_written(lambda: flatten_result(opened.module(**given)), threads, what, f"check the inputs' shapes; {advice}")


@dataclass(frozen=True)
class Opened:
    """A loaded module, in eval mode, and what its file says of it."""

    module: Any
    archive_version: str
    saved_in_training: bool


def open_module(path: Path) -> Opened:
    """Scan the archive, then let TorchScript load it, in eval mode.

    Args:
        path: the file.

    Returns:
        The loaded module.

    Raises:
        ModelUnreadable: if TorchScript cannot read it.
        ModelRefused: if it has no forward.
    """
    version = scan_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ModelUnreadable(
            Fault("TorchScript cannot load the file", where=path.name, got=first_line, advice="save the model again")
        ) from error
    if not hasattr(module, "forward"):
        raise ModelRefused(
            Fault(
                "the file has no forward method",
                where=path.name,
                advice="export a module with a forward, by torch.jit.trace or script",
            )
        )
    saved_in_training = any(getattr(part, "training", False) for part in module.modules())
    return Opened(module.eval(), version, saved_in_training)


def import_module(opened: Opened) -> Program:
    """Return the program of a loaded module.

    Args:
        opened: the module.

    Returns:
        The program.

    Raises:
        ModelRefused: if its forward writes into its own weights or buffers.
    """
    module, graph = opened.module, opened.module.inlined_graph
    itself, *values = graph.inputs()
    state = read_state(module)
    importer = Importer(module, graph, state)
    importer.slots[itself.debugName()] = Owner(module._c, "")  # noqa: SLF001 - reads attributes without Python wrappers
    inputs, drafts = read_inputs(importer, module.forward.schema.arguments[1:], values)
    drafts += importer.draft(graph.nodes())
    importer.check()
    (returned,) = graph.outputs()
    outputs = draft_outputs(importer, importer.slots[returned.debugName()], returned.type(), drafts)
    sketch = Sketch(
        state,
        inputs,
        drafts,
        outputs,
        prelude=importer.prelude,
        containers=importer.containers,
        training=importer.training,
    )
    return assemble(
        sketch,
        "torchscript",
        f"pytorch, archive version {opened.archive_version}",
        saved_in_training=opened.saved_in_training and importer.reads_training_mode,
    )
