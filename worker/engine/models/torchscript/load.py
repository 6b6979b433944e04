"""Load a TorchScript file as a program, and run the file itself for comparison."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from schemas.errors import Fault, ModelRefused, ModelUnreadable
from worker.engine.models.program import InputSpec, Program
from worker.engine.models.torchscript.classify import Classifier
from worker.engine.models.torchscript.draft import Draft, drop_dead, finish
from worker.engine.models.torchscript.importer import Importer
from worker.engine.models.torchscript.mutation import remove_mutation
from worker.engine.models.torchscript.operators import DEVICE
from worker.engine.models.torchscript.scan import scan_archive
from worker.engine.models.torchscript.signature import draft_outputs, flatten_result, read_inputs
from worker.engine.models.torchscript.slots import Owner
from worker.engine.models.torchscript.state import State, read_state

ANCHOR = "device_anchor"
"""A constant without elements that Program.to moves, so that steps can ask it where the program is."""


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
    """
    module = open_module(path)
    import_module(module)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            return dict(flatten_result(module(**inputs)))
    finally:
        torch.set_num_threads(before)


def open_module(path: Path) -> Any:
    """Scan the archive, then let TorchScript load it, in eval mode.

    Args:
        path: the file.

    Returns:
        The loaded module.

    Raises:
        ModelUnreadable: if TorchScript cannot read it.
        ModelRefused: if it has no forward.
    """
    scan_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError, TypeError) as error:
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
    return module.eval()


def import_module(module: Any) -> Program:
    """Return the program of a loaded module."""
    graph = module.inlined_graph
    itself, *values = graph.inputs()
    state = read_state(module)
    importer = Importer(module, graph, state)
    importer.slots[itself.debugName()] = Owner(module._c, "")  # noqa: SLF001 - reads attributes without Python wrappers
    inputs = read_inputs(importer, module.forward.schema.arguments[1:], values)
    drafts = importer.draft(graph.nodes())
    outputs = [name for value in graph.outputs() for name in draft_outputs(importer, value, drafts)]
    importer.check()
    stored = frozenset(state.weights) | _find_stored(state)
    remove_mutation(drafts, outputs, {spec.name for spec in inputs}, stored, frozenset(importer.containers))
    steps = _complete(importer, inputs, drafts, outputs)
    return Program(
        format="torchscript",
        producer=f"pytorch {torch.__version__.partition('+')[0]}",
        opset=None,
        inputs=inputs,
        outputs=tuple(outputs),
        weights=state.weights,
        constants={**state.constants, ANCHOR: torch.empty(0)},
        steps=finish(steps),
        modules=state.modules,
        skipped=tuple(state.skipped),
        training=bool(importer.training),
    )


def _complete(importer: Importer, inputs: tuple[InputSpec, ...], drafts: list[Draft], outputs: list[str]) -> list[Draft]:
    place = Draft(DEVICE, "prim::device", _find_device, [ANCHOR], [DEVICE], shape_only=True)
    steps = drop_dead([place, *importer.prelude, *drafts], set(outputs))
    constants = importer.state.constants
    shapes = {name for name, value in constants.items() if not isinstance(value, Tensor) or value.dim() == 0}
    integers = {name for name, value in constants.items() if isinstance(value, Tensor) and _is_integer(value)}
    Classifier(shapes - {spec.name for spec in inputs}, integers).mark(steps)
    return steps


def _find_stored(state: State) -> frozenset[str]:
    return frozenset(name for name, value in state.constants.items() if isinstance(value, Tensor | list | dict))


def _is_integer(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and tensor.dtype != torch.bool


def _find_device(anchor: Tensor) -> torch.device:
    return anchor.device
