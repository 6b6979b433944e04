"""Everything that is wrong with a file, collected while it is read and raised at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from schemas.errors import AuditError, Fault, ModelRefused, ModelUnreadable, OperatorFault, UnsupportedOperator, join_errors
from worker.engine.models.onnx.operators.refused import REFUSED
from worker.engine.models.onnx.registry import NEWEST_OPSET, OLDEST_OPSET

NAMED_NODES = 5
"""How many nodes a fault names before it only counts."""
LISTED_NODES = 50
"""How many a plan lists."""
MAX_FAULTS = 200
"""A hostile file must not make an endless report."""

KNOWN_DOMAINS = {"", "ai.onnx.ml", "ai.onnx.preview", "com.microsoft", "com.microsoft.nchwc"}

ATEN = "export again without operator_export_type ONNX_ATEN"
ADVICE = {
    "com.microsoft": "audit the file from before ONNX Runtime's graph optimisation or quantisation "
    "(write it with graph_optimization_level ORT_DISABLE_ALL)",
    "com.microsoft.nchwc": "save the optimised model with ONNX Runtime's level extended",
    "ai.onnx.contrib": "take the steps of onnxruntime-extensions, before and after the network, out of the model",
    "org.pytorch.aten": f"{ATEN}_FALLBACK, or audit the TorchScript or torch.export form",
    "aten": f"{ATEN}, or audit the TorchScript or torch.export form",
}
"""By domain, what to do about operators that are not in the table."""


@dataclass(frozen=True)
class Missing:
    """An operator, or a form of one, that the table does not cover."""

    domain: str
    operator: str
    opset: int
    reason: str


@dataclass
class Faults:
    """Collects faults by kind."""

    unreadable: list[Fault] = field(default_factory=list)
    refused: list[Fault] = field(default_factory=list)
    missing: dict[Missing, list[str]] = field(default_factory=dict)

    def add_missing(self, missing: Missing, node: str) -> None:
        """Note one node whose operator the table does not cover."""
        self.missing.setdefault(missing, []).append(node)

    def raise_any(self) -> None:
        """Raise everything that was found as the gravest kind of it; operators that are missing only are no reason.

        Raises:
            ModelUnreadable: the file contradicts itself.
            ModelRefused: the file is sound but must not or cannot be audited.
        """
        grave: list[AuditError] = [ModelUnreadable(*self.unreadable[:MAX_FAULTS])] if self.unreadable else []
        grave += [ModelRefused(*self.refused[:MAX_FAULTS])] if self.refused else []
        if grave:
            error = join_errors([*grave, UnsupportedOperator(*self.list_missing())])
            raise error

    def list_missing(self) -> tuple[Fault, ...]:
        """Return one fault for each operator outside the table, with its nodes."""
        return tuple(_describe(entry, nodes) for entry, nodes in list(self.missing.items())[:MAX_FAULTS])


def describe_reach(reached: int, total: int) -> Fault:
    """Return what share of the weights reaches an output by operators of the table alone."""
    return Fault(
        what=f"{reached} of {total} weights reach an output without these operators",
        where="/model",
        expected="all weights",
        got=f"{reached / total:.1%}",
        advice="mend the operators above; or cut the model behind them, take what they compute as inputs, and audit what is left",
    )


def _describe(missing: Missing, nodes: Sequence[str]) -> Fault:
    title = f"{missing.domain}.{missing.operator}" if missing.domain else missing.operator
    shown = ", ".join(nodes[:NAMED_NODES]) + (", ..." if len(nodes) > NAMED_NODES else "")
    count = f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}"
    return OperatorFault(
        what=f"operator {title} (opset {missing.opset}) {missing.reason}",
        where=f"nodes {shown}",
        expected="an operator of docs/onnx_operators.md",
        got=f"{title} in {count}",
        advice=_advise(missing),
        operator=missing.operator,
        domain=missing.domain or "ai.onnx",
        count=len(nodes),
        nodes=tuple(nodes[:LISTED_NODES]),
    )


def _advise(missing: Missing) -> str:
    if (missing.domain, missing.operator) in REFUSED:
        return REFUSED[missing.domain, missing.operator][1]
    if missing.domain in ADVICE:
        return ADVICE[missing.domain]
    if missing.domain not in KNOWN_DOMAINS:
        return f"the domain {missing.domain!r} is not ONNX's: include the operator as a local function or export without it"
    if missing.domain == "" and missing.opset <= OLDEST_OPSET:
        return (
            f"export the model again at opset {OLDEST_OPSET + 1} to {NEWEST_OPSET}, or bring it there by onnx.version_converter"
        )
    return "replace the operator in the model, export at another opset, or audit the TorchScript or torch.export form"
