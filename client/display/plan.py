"""A plan for a person: what would be audited, what it costs, and where the time goes."""

from rich.console import Console, RenderableType
from rich.text import Text

from client.display.figures import one_line, show_count, show_digest, show_several, show_size
from client.display.problem import print_items
from client.display.report import draw_flag
from client.display.sections import NARROW, build_grid, draw_share, print_section, start_table
from client.errors import ExitCode
from schemas.plan import Plan, UnsupportedPlan

SCOPES = {
    "model": "the whole model",
    "per_module": "modules",
    "per_tensor": "tensors",
    "per_component": "types of weights",
    "per_depth": "depth bands",
    "named": "named scopes",
}


def print_plan(console: Console, plan: Plan) -> None:
    """Print the whole plan for the console's width."""
    print_section(console, "Audit", [_build_header(plan)])
    print_section(console, "Work: passes at most, seconds as expected", [_draw_parts(console, plan)])
    print_section(console, "Cost", [_build_cost(plan)])
    print_section(console, "Doubts", [draw_flag(flag) for flag in plan.flags])
    text = Text(f"About {show_duration(plan.seconds.total)}", style="bold")
    most = f" on a worker like this one, at most {show_duration(plan.seconds.at_most)}"
    console.print(text.append_text(Text(most, style="default")))


def print_unsupported(console: Console, plan: UnsupportedPlan, code: ExitCode) -> None:
    """Print what is in the way of an audit: operators with their counts, how far one could go, and every fault."""
    rows = {"file": [show_size(plan.file.size_bytes), show_digest(plan.file.sha256)]}
    if plan.coverage is not None:
        supported, total = plan.coverage.weights_supported, plan.coverage.weights_total
        share = f"{show_count(supported)} of {show_count(total)} ({supported / max(1, total):.1%})"
        rows["weights"] = [f"{share} lead to an output through supported operators"]
    print_section(console, "Model", [build_grid(rows)])
    table = start_table("operator", "domain", ">nodes", "first of them")
    for entry in plan.operators:
        first = one_line(", ".join(entry.nodes[:5]))
        table.add_row(one_line(entry.operator), one_line(entry.domain), show_count(entry.count), first)
    print_section(console, "Unsupported operators", [table])
    console.print(Text("Everything in the way", style="bold"))
    print_items(console, plan.faults)
    console.print()
    missing = show_several(len(plan.operators), "unsupported operator")
    console.print(Text(f"It cannot be audited as it is: {missing}, exit code {int(code)}", style="bold red"))


def show_duration(seconds: float) -> str:
    """Return a time that a person can use.

    >>> show_duration(0.04), show_duration(14.6), show_duration(200), show_duration(9000)
    ('less than a second', '15 s', '3.3 min', '2.5 h')
    """
    if seconds < 1:
        return "less than a second"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _build_header(plan: Plan) -> RenderableType:
    model, data, held_out, coverage = plan.subject.model, plan.subject.data, plan.subject.evaluate_on, plan.coverage
    share = coverage.weights_audited / coverage.weights_total if coverage.weights_total else 0.0
    opset = f" opset {model.opset}" if model.opset is not None else ""
    beyond = [f"{show_count(held_out.examples)} held-out examples"] if held_out is not None else []
    scopes = [
        f"{show_count(group.scopes)} {SCOPES[group.kind]}" if group.scopes > 1 else _name_one(group.kind) for group in plan.scopes
    ]
    return build_grid(
        {
            "model": [f"{model.format}{opset}", one_line(model.producer), show_size(model.size_bytes), show_digest(model.sha256)],
            "data": [f"{show_count(data.examples)} examples", *beyond, show_digest(data.sha256)],
            "weights": [
                f"{show_count(coverage.weights_audited)} of {show_count(coverage.weights_total)} can be audited ({share:.1%})",
                f"{coverage.tensors_audited} of {coverage.tensors_total} tensors",
            ],
            "scopes": scopes,
            "findings": [f"{show_count(plan.cells)}, one for each corruption set in each scope"],
        }
    )


def _name_one(kind: str) -> str:
    return SCOPES[kind] if kind == "model" else f"one of {SCOPES[kind]}"


def _draw_parts(console: Console, plan: Plan) -> RenderableType:
    with_bars = console.width >= NARROW
    table = start_table("work", "scope", ">times", ">forward", ">backward", ">examples", ">seconds", *([""] if with_bars else []))
    total = sum(part.seconds for part in plan.parts) or 1.0
    for part in plan.parts:
        figures = [part.count, part.passes.forward, part.passes.backward, part.examples]
        bar = [draw_share(part.seconds / total, console)] if with_bars else []
        scope = one_line(part.scope).replace("_", " ")
        table.add_row(part.work.replace("_", " "), scope, *map(show_count, figures), f"{part.seconds:.2f}", *bar)
    return table


def _build_cost(plan: Plan) -> RenderableType:
    memory, seconds, passes = plan.memory, plan.seconds, plan.passes
    return build_grid(
        {
            "passes": [f"at most {show_count(passes.forward)} forward", f"{show_count(passes.backward)} backward"],
            "memory": [
                f"{show_size(memory.total_bytes)} beside the libraries",
                f"weights {show_size(memory.weights_bytes)}",
                f"gradient {show_size(memory.gradient_bytes)}",
                f"{memory.micro_batch} examples at once of {show_size(memory.activations_bytes)}",
                f"kept activations {show_size(memory.kept_bytes)}",
                f"corruptions {show_size(memory.search_bytes)}",
            ],
            "timed": [
                f"{1000 * seconds.forward:.3g} ms forward",
                f"{1000 * seconds.step:.3g} ms with a backward pass, for {memory.micro_batch} examples",
            ],
        }
    )
