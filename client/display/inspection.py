"""An inspection for a person: whether the model can be audited, what is in it, and what is not."""

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.text import Text

from client.display.figures import NOTHING, one_line, show_count, show_digest, show_several, show_size
from client.display.problem import print_items
from client.display.sections import build_grid, draw_share, print_section, start_table
from client.errors import ExitCode
from schemas.inspection import InspectedParity, InspectedValue, Inspection

MAX_ROWS = 20
ROLES = {
    "integer": "whole numbers: indices, shapes, masks",
    "running_statistic": "running statistics of a normalisation",
    "not_a_weight": "settings, masks and positions",
}
RUNTIMES = {"onnx": "ONNX Runtime", "torchscript": "TorchScript", "pt2": "PyTorch"}


def print_inspection(console: Console, found: Inspection, code: ExitCode) -> None:
    """Print the whole inspection for the console's width."""
    print_section(console, "Model", [_build_header(found)])
    print_section(console, "Weights by type", _draw_components(console, found))
    print_section(console, "Modules", _draw_modules(console, found))
    print_section(console, "Stored, but no weights", _draw_others(found))
    operators = [f"{one_line(entry.operator)} {entry.count}" for entry in sorted(found.operators, key=lambda entry: -entry.count)]
    print_section(console, "Operators", [Text(", ".join(operators))] if operators else [])
    for title, items in (("Unsupported operators", found.unsupported), ("What else forbids an audit", found.refusals)):
        if items:
            console.print(Text(title, style="bold"))
            print_items(console, items)
            console.print()
    console.print(_conclude(found, code))


def _build_header(found: Inspection) -> RenderableType:
    coverage = found.coverage
    opsets = [f"{one_line(domain)} {version}" for domain, version in found.opsets.items()]
    share = coverage.weights_supported / coverage.weights_total if coverage.weights_total else 0.0
    behind = "all lead" if share == 1 else f"{show_count(coverage.weights_supported)} ({share:.1%}) lead"
    tensors, modules = show_several(coverage.tensors_total, "tensor"), show_several(len(found.modules), "module")
    weights = f"{show_count(coverage.weights_total)} in {tensors} of {modules}"
    return build_grid(
        {
            "file": [show_size(found.file.size_bytes), show_digest(found.file.sha256)],
            "format": [found.format, *opsets, *([one_line(found.producer)] if found.producer else [])],
            "inputs": [_show_value(value) for value in found.inputs],
            "outputs": [_show_value(value) for value in found.outputs],
            "weights": [weights, f"{behind} to an output through supported operators"],
            "parity": [_show_parity(found.parity, RUNTIMES[found.format])],
            "scan": [f"{one_line(entry.found)} {one_line(entry.what)}" for entry in found.scan],
        }
    )


def _show_value(value: InspectedValue) -> str:
    known = [] if value.dtype is None else [one_line(value.dtype)]
    if value.shape is not None:
        known.append("[" + " x ".join("any" if size is None else str(size) for size in value.shape) + "]")
    optional = ["optional"] if value.optional else []
    return " ".join([one_line(value.name), *known, *optional])


def _show_parity(parity: InspectedParity, runtime: str) -> str:
    if parity.difference is None:
        return f"not compared with {runtime}: {one_line(parity.reason or NOTHING)}"
    examples = f"{parity.examples} {'made-up examples' if parity.example == 'made_up' else 'examples of the data'}"
    if parity.difference == 0:
        return f"the same numbers as {runtime} on {examples}"
    return f"within {parity.difference:.1e} x (1 + |value|) of {runtime} on {examples}"


def _draw_components(console: Console, found: Inspection) -> Sequence[RenderableType]:
    table, total = start_table("type", ">tensors", ">weights", ">share", ""), max(1, found.coverage.weights_total)
    for part in sorted(found.components, key=lambda part: -part.weights):
        share = part.weights / total
        name = one_line(part.component).replace("_", " ")
        table.add_row(name, str(part.tensors), show_count(part.weights), f"{share:.1%}", draw_share(share, console))
    return [table] if found.components else []


def _draw_modules(console: Console, found: Inspection) -> Sequence[RenderableType]:
    table, total = start_table("module", "type", ">depth", ">tensors", ">weights", ""), max(1, found.coverage.weights_total)
    for module in found.modules[:MAX_ROWS]:
        component = NOTHING if module.component is None else one_line(module.component).replace("_", " ")
        depth = NOTHING if module.depth is None else f"{module.depth:.2f}"
        bar = draw_share(module.weights / total, console)
        table.add_row(one_line(module.name), component, depth, str(module.tensors), show_count(module.weights), bar)
    more = len(found.modules) - MAX_ROWS
    rest = [Text(f"{more} more are in --json", style="dim")] if more > 0 else []
    return [table, *rest] if found.modules else []


def _draw_others(found: Inspection) -> Sequence[RenderableType]:
    rows = []
    for role, meaning in ROLES.items():
        tensors = [tensor for tensor in found.tensors if tensor.role == role]
        if tensors:
            names = ", ".join(one_line(tensor.name) for tensor in tensors[:3]) + (", ..." if len(tensors) > 3 else "")
            numbers = sum(tensor.elements for tensor in tensors)
            rows.append((meaning, f"{show_several(len(tensors), 'tensor')} of {show_several(numbers, 'number')}: {names}"))
    return [build_grid({meaning: [text] for meaning, text in rows})] if rows else []


def _conclude(found: Inspection, code: ExitCode) -> Text:
    if code == ExitCode.SUCCESS:
        text = Text("It can be audited", style="bold green")
    else:
        reasons = [show_several(len(found.unsupported), "unsupported operator")] if found.unsupported else []
        reasons += [show_several(len(found.refusals), "other reason")] if found.refusals else []
        text = Text(f"It cannot be audited as it is: {' and '.join(reasons)}", style="bold red")
    return text.append_text(Text(f", exit code {int(code)}", style="default"))
