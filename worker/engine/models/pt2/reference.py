"""Run an exported graph the plain way: node by node as the file writes them, in place where it writes in place.

This is what the runtime of torch.export does, and the second route that programs are compared with. Nothing is rewritten,
dropped, cached or bound ahead; and each tensor must have the dtype and the sizes that PyTorch declared for it in the file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from schemas.errors import DataMismatch, Fault
from worker.engine.models.aten.operators import Given, Read, find_dispatched
from worker.engine.models.aten.reference import run_as_written
from worker.engine.models.pt2.document import Argument, Branch, Declared, Graph, Node, Several
from worker.engine.models.pt2.guards import find_broken_guards
from worker.engine.models.pt2.importer import ATEN, HIGHER_ORDER, find_entries, find_function
from worker.engine.models.pt2.load import Contents, import_contents, read_contents
from worker.engine.models.pt2.quantised import OPERATORS, run_operator
from worker.engine.models.pt2.symbols import WITHOUT_EFFECT

Values = dict[str, Any]


def run_reference(path: Path, inputs: dict[str, Tensor], threads: int) -> dict[str, Tensor]:
    """Return what the graph of an archive gives, keyed like Program.outputs.

    Args:
        path: the file; it is scanned and its operators are checked as for load_pt2.
        inputs: tensors by name.
        threads: how many threads the run may use.

    Returns:
        The outputs by name.

    Raises:
        DataMismatch: if the inputs break what the exporter assumed, if the graph fails on them, or if it computes tensors of
            other dtypes or sizes than it declares.
    """
    contents = read_contents(path)
    names = import_contents(contents).outputs
    broken = find_broken_guards(contents.document.guards, inputs)
    if broken:
        raise DataMismatch(*broken)
    what, advice = (
        "PyTorch cannot run the exported graph on this data",
        "check the inputs' shapes; the batch axis must be dynamic",
    )
    return run_as_written(lambda: zip(names, run_document(contents, inputs), strict=True), threads, what, advice)


def run_document(contents: Contents, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Run the outer graph.

    Args:
        contents: the graph and its stored tensors; in-place operators may change these.
        inputs: tensors by name.

    Returns:
        The tensors among the results, in order.

    Raises:
        DataMismatch: if a tensor is not what the file declares.
    """
    document = contents.document
    values: Values = {}
    for formal in document.formals:
        if formal.kind == "user_input" and isinstance(formal.argument, Read):
            values[formal.name] = inputs[formal.name].clone()
        elif formal.kind == "constant_input" and isinstance(formal.argument, Given):
            values[formal.name] = formal.argument.value
        elif isinstance(formal.argument, Read):
            values[formal.argument.name] = contents.tensors[formal.name]
    checker = Checker()
    checker.check(document.graph, values)
    run_graph(document.graph, values, checker)
    results = [find_value(result, values) for result in document.results]
    return [result for result in results if isinstance(result, Tensor)]


class Checker:
    """Compares tensors with what the file declares of them; one expression has one size in one run."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}

    def check(self, graph: Graph, values: Values) -> None:
        """Check the tensors among `values`.

        Raises:
            DataMismatch: naming each that differs.
        """
        faults = [
            Fault(
                f"{name} is not what the file declares",
                where=name,
                expected=f"{declared.dtype}, {list(declared.sizes)}",
                got=f"{values[name].dtype}, {list(values[name].shape)}",
                advice="give inputs as the model was exported for; else the file is inconsistent: export it again",
            )
            for name, declared in graph.tensors.items()
            if isinstance(values.get(name), Tensor) and not self._fits(values[name], declared)
        ]
        if faults:
            raise DataMismatch(*faults)

    def _fits(self, tensor: Tensor, declared: Declared) -> bool:
        sizes = [
            size if isinstance(size, int) else self._sizes.setdefault(size, found)
            for size, found in zip(declared.sizes, tensor.shape, strict=False)
        ]
        return tensor.dtype == declared.dtype and len(declared.sizes) == tensor.ndim and sizes == list(tensor.shape)


def run_graph(graph: Graph, values: Values, checker: Checker) -> None:
    """Run the nodes of a graph over its values."""
    for node in graph.nodes:
        made = dict(zip(node.names, _find_results(node, run_node(node, values, checker)), strict=False))
        values.update(made)
        checker.check(Graph((), (), (), {name: graph.tensors[name] for name in made if name in graph.tensors}), made)


def run_node(node: Node, values: Values, checker: Checker) -> Any:
    """Run one node."""
    found = ATEN.fullmatch(node.target)
    if found is not None and found[1] in WITHOUT_EFFECT:
        return None
    if node.target.startswith(HIGHER_ORDER):
        return _run_higher_order(node, values, checker)
    if node.target in OPERATORS:
        return run_operator(node.target, {name: find_value(argument, values) for name, argument in node.inputs})
    function = find_function(node.target)
    if function is not None or found is None:
        return function(*(find_value(argument, values) for _, argument in node.inputs)) if function else None
    given = {name: find_value(argument, values) for name, argument in node.inputs if name != "pin_memory"}
    operator: Any = find_dispatched(f"aten::{found[1]}", found[2].removesuffix("default"))
    return operator(**given)


def _run_higher_order(node: Node, values: Values, checker: Checker) -> tuple[Any, ...]:
    arguments = [argument for _, argument in node.inputs]
    branches = [argument.graph for argument in arguments if isinstance(argument, Branch)]
    if node.target == f"{HIGHER_ORDER}cond":
        graph = branches[0 if find_value(arguments[0], values) else 1]
        operands = find_entries(arguments[3])
    else:
        graph = branches[0]
        operands = arguments[1 + next(place for place, argument in enumerate(arguments) if isinstance(argument, Branch)) :]
    names = [formal.name for formal in graph.inputs if isinstance(formal, Read)]
    inner = {name: find_value(operand, values) for name, operand in zip(names, operands, strict=True)}
    run_graph(graph, inner, checker)
    return tuple(find_value(output, inner) for output in graph.outputs)


def find_value(argument: Argument, values: Values) -> Any:
    """Return the value of an argument."""
    if isinstance(argument, Several):
        return [find_value(entry, values) for entry in argument.entries]
    if isinstance(argument, Read):
        return values[argument.name]
    return argument.value if isinstance(argument, Given) else None


def _find_results(node: Node, result: Any) -> Iterator[Any]:
    if isinstance(result, list | tuple) and not (node.single and len(node.names) == 1):
        yield from result
    else:
        yield result
