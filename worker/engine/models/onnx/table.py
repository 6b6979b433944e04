"""The support table as a document: `python -m worker.engine.models.onnx.table > docs/onnx_operators.md`."""

import sys
from collections.abc import Iterable

import onnx.defs

from worker.engine.models.onnx.operators import FAMILIES, TABLE
from worker.engine.models.onnx.operators.refused import REFUSED
from worker.engine.models.onnx.registry import NEWEST_OPSET, OLDEST_OPSET, Operator

HEAD = f"""# ONNX operators

Written by `python -m worker.engine.models.onnx.table` from the operator table; a test compares the two.

Models at opset {OLDEST_OPSET} to {NEWEST_OPSET} of ONNX's own domain are read. Any other operator is refused before the
audit starts, with every operator and node named at once; so are attributes and data types beyond what stands here.
Local functions are inlined, and external data is read where it lies beside the model under a plain file name. What happens to
quantised, half-precision and optimised files: [quantised.md](quantised.md).
Outputs that are text are left out. In files of classical models (domain ai.onnx.ml) scores come before class numbers, and a map
from class to score is read as one column per class in the order of the classes: set `objective.output_kind: probabilities`.
Tensors may be float32, float64, float16, bfloat16, int8 to int64, uint8 to uint64 or bool; stored codes of a grid also int2,
int4, uint2 and uint4. Eight-bit floats may only be converted, dequantised and rearranged.
"""


def render_table() -> str:
    """Return the document: one section per family, one row per operator."""
    names = {(entry.domain, entry.name) for entry in TABLE.operators}
    parts = [HEAD, f"{len(names)} operators:\n"]
    for family in FAMILIES:
        rows: dict[str, list[Operator]] = {}
        for entry in family.operators:
            rows.setdefault(entry.title, []).append(entry)
        lines = [_render_row(title, entries) for title, entries in sorted(rows.items())]
        heading = f"## {family.name[0].upper()}{family.name[1:]}"
        parts.append("\n".join([heading, "", "| operator | opsets | what it does |", "|---|---|---|", *lines, ""]))
    missing = [f"| {title} | {reason} |" for title, reason in _find_missing()]
    parts.append("\n".join(["## Not supported", "", "| operator | why |", "|---|---|", *missing, ""]))
    return "\n".join(parts)


def _render_row(title: str, entries: list[Operator]) -> str:
    newest = max(entries, key=lambda entry: entry.since)
    return f"| {title} | {_render_range(entries)} | {_describe(newest)} |"


def _render_range(entries: Iterable[Operator]) -> str:
    """Return the opsets of all forms together, such as `7 to 28`."""
    rows = list(entries)
    if rows[0].domain:
        return f"from {min(entry.since for entry in rows)}"
    last = max(NEWEST_OPSET if entry.until is None else entry.until - 1 for entry in rows)
    first = max(OLDEST_OPSET, min(entry.since for entry in rows), _find_first_opset(rows[0].name))
    return f"{first} to {last}"


def _find_first_opset(name: str) -> int:
    versions = [
        schema.since_version for schema in onnx.defs.get_all_schemas_with_history() if (schema.domain, schema.name) == ("", name)
    ]
    return min(versions, default=1)


def _describe(entry: Operator) -> str:
    if not (entry.function.__module__ or "").startswith("worker."):
        return f"`torch.{entry.function.__name__}`"
    return (entry.function.__doc__ or "").split("\n", maxsplit=1)[0]


def _find_missing() -> list[tuple[str, str]]:
    """Return the operators of the standard's domains that have no row, each with the reason."""
    known = {(entry.domain, entry.name) for entry in onnx.defs.get_all_schemas() if not entry.deprecated}
    missing = sorted(key for key in known - {("", "Constant")} if not TABLE.knows(*key))
    return [(f"{domain}.{name}" if domain else name, ": ".join(REFUSED.get((domain, name), ()))) for domain, name in missing]


if __name__ == "__main__":
    sys.stdout.write(render_table())
