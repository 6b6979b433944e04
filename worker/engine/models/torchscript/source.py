"""Check the source code of a TorchScript archive, which is a small Python, by its syntax tree."""

import ast
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from schemas.errors import Fault, FaultlineError, ModelRefused, UnsupportedOperator
from worker.engine.models.aten.allowlist import (
    LOADABLE_ONLY,
    describe_unsupported,
    is_allowed_tensor_operator,
    split_names,
)
from worker.engine.models.aten.builtins import BUILTINS, CONSTANT_ANSWERS, IGNORED

MAX_DEPTH = 200
MAX_SOURCE_CHARACTERS = 64 * 2**20

DANGEROUS: frozenset[str] = frozenset(
    {"save", "from_file", "load", "__setstate__", "__getstate__", "_set_data", "set_data", "set_", "resize_"}
)
"""Names with an effect outside the graph's own values, refused wherever they stand."""

PYTHON_NAMES = split_names("""
int float bool str complex len range print getattr isinstance annotate unchecked_cast uninitialized unwrap_optional min max abs
ord sorted enumerate zip list dict tuple
""")

BUILTIN_NAMES: frozenset[str] = frozenset(
    name.partition("::")[2].partition(".")[0] for name in [*BUILTINS, *CONSTANT_ANSWERS, *IGNORED]
) | split_names("device warn hash clear pop get setdefault update sort reverse count index replace split strip isdigit")

PRIM_NAMES: frozenset[str] = frozenset(
    name.removeprefix("prim::") for name in [*BUILTINS, *CONSTANT_ANSWERS, *IGNORED] if name.startswith("prim::")
) | split_names("unchecked_unwrap_optional is_cpu is_xpu is_meta grad name shape")

NODES = tuple(
    getattr(ast, name)
    for name in sorted(
        split_names("""
Module ClassDef FunctionDef arguments arg Return Assign AnnAssign AugAssign Expr Pass If IfExp For While Break Continue Assert
Raise Call keyword Attribute Name Subscript Slice Starred Constant List Tuple Dict UnaryOp BinOp Compare BoolOp expr_context
unaryop operator cmpop boolop
""")
    )
)
"""What TorchScript's printer writes: no import, lambda, comprehension, with, try, global, await or decorator target."""


@dataclass(frozen=True)
class Source:
    """One file under code/."""

    place: str
    text: str


def check_sources(sources: Sequence[Source]) -> Iterator[FaultlineError]:
    """Yield the errors of all files together: at most one refusal and one list of unsupported operators."""
    faults: list[Fault] = []
    unknown: Counter[str] = Counter()
    trees: list[tuple[str, list[ast.AST]]] = []
    if sum(len(source.text) for source in sources) > MAX_SOURCE_CHARACTERS:
        faults.append(
            Fault("the archive's code is too long", where="code/", expected=f"at most {MAX_SOURCE_CHARACTERS} characters")
        )
        sources = []
    for source in sources:
        try:
            nodes, depth = walk_levels(ast.parse(source.text))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            faults.append(Fault("a source file cannot be parsed", where=source.place, got=str(error)))
            continue
        trees.append((source.place, nodes))
        if depth > MAX_DEPTH:
            faults.append(Fault("a source file is nested too deeply", where=source.place, expected=f"at most {MAX_DEPTH} levels"))
    defined = {node.name for _, nodes in trees for node in nodes if isinstance(node, ast.FunctionDef)}
    for place, nodes in trees:
        checker = _Checker(place, defined)
        checker.check(nodes)
        faults += checker.faults
        unknown += checker.unknown
    if faults:
        yield ModelRefused(*faults)
    if unknown:
        yield UnsupportedOperator(*(describe_unsupported(name, count, "mention") for name, count in sorted(unknown.items())))


def walk_levels(tree: ast.AST) -> tuple[list[ast.AST], int]:
    """Return every node of a syntax tree, outer ones first, and how deeply it is nested; without recursion."""
    level, depth, nodes = [tree], 0, [tree]
    while level:
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        nodes += level
        depth += 1
    return nodes, depth


class _Checker:
    """Checks one file; `defined` holds the names of all functions that the archive defines."""

    def __init__(self, place: str, defined: set[str]) -> None:
        self.faults: list[Fault] = []
        self.unknown: Counter[str] = Counter()
        self._place = place
        self._defined = defined

    def check(self, nodes: Sequence[ast.AST]) -> None:
        """Go over every node of the file, outer ones first."""
        inner: set[int] = set()
        for node in nodes:
            if not isinstance(node, NODES):
                self._refuse(node, f"code holds a {type(node).__name__}, which TorchScript does not write")
            elif isinstance(node, ast.FunctionDef) and (node.name in DANGEROUS or node.decorator_list):
                self._refuse(node, f"code defines {node.name}, which runs when the file is loaded or saved")
            elif isinstance(node, ast.Attribute):
                inner.add(id(node.value))
                if id(node) not in inner:
                    self._check_chain(node)
                if isinstance(node.value, ast.Name) and node.value.id in {"torch", "ops"}:
                    inner.add(id(node.value))
            elif isinstance(node, ast.Name) and node.id in {"torch", "ops"} and id(node) not in inner:
                self._refuse(node, f"code passes {node.id} itself around")
            elif isinstance(node, ast.Call):
                self._check_call(node)

    def _check_chain(self, node: ast.Attribute) -> None:
        parts = [node.attr]
        base = node.value
        while isinstance(base, ast.Attribute):
            parts.append(base.attr)
            base = base.value
        parts.reverse()
        if isinstance(base, ast.Name) and base.id == "torch":
            self._check_operator(node, "aten", parts[0], parts)
        elif isinstance(base, ast.Name) and base.id == "ops":
            self._check_operator(node, parts[0], parts[1] if len(parts) > 1 else "", parts[1:])
        elif isinstance(base, ast.Name) and base.id == "__torch__" and parts[:2] == ["torch", "classes"]:
            self._refuse(node, f"code uses the library class {'.'.join(parts)}")
        elif not (isinstance(base, ast.Name) and base.id == "__torch__") and not DANGEROUS.isdisjoint(parts):
            self._refuse(node, f"code reaches for {'.'.join(parts)}")

    def _check_operator(self, node: ast.AST, namespace: str, name: str, parts: list[str]) -> None:
        if not DANGEROUS.isdisjoint(parts):
            self._refuse(node, f"code calls {namespace}::{name}, which reaches outside the model")
        elif len(parts) != 1 or not is_known_operator(namespace, name):
            self.unknown[f"{namespace}::{'.'.join(parts)}"] += 1

    def _check_call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Name):
            # Anything else is a local name; what it may stand for was checked where it was bound.
            if function.id == "getattr" and not _is_plain_getattr(node):
                self._refuse(node, "code reads an attribute under a name that is computed or forbidden")
            elif function.id not in PYTHON_NAMES and is_operator_name(function.id) and function.id not in self._defined:
                self._refuse(node, f"code calls {function.id}, which it does not define")
        elif isinstance(function, ast.Attribute):
            base = function.value
            while isinstance(base, ast.Attribute):
                base = base.value
            rooted = isinstance(base, ast.Name) and base.id in {"torch", "ops", "__torch__"}
            if not rooted and not self._is_method(function.attr):
                self._refuse(node, f"code calls .{function.attr}, which it does not define")
        else:
            self._refuse(node, f"code calls the result of a {type(function).__name__}")

    def _is_method(self, name: str) -> bool:
        # TorchScript resolves a method of a tensor to the operator of that name, so a defined name may not hide one.
        return name in self._defined and (not is_operator_name(name) or is_known_operator("aten", name))

    def _refuse(self, node: ast.AST, what: str) -> None:
        line = getattr(node, "lineno", 0)
        self.faults.append(
            Fault(
                what,
                where=f"{self._place}:{line}",
                expected="a forward of tensor operators",
                advice="remove the code that does more than compute outputs from inputs, and export again",
            )
        )


def is_known_operator(namespace: str, name: str) -> bool:
    """Return whether code may mention this operator."""
    if namespace == "prim":
        return name in PRIM_NAMES
    return namespace == "aten" and (is_allowed_tensor_operator(name) or name in LOADABLE_ONLY or name in BUILTIN_NAMES)


def is_operator_name(name: str) -> bool:
    """Return whether TorchScript has an aten operator of this name."""
    return bool(re.fullmatch(r"\w+", name)) and bool(torch._C._jit_get_schemas_for_operator(f"aten::{name}"))  # noqa: SLF001


def _is_plain_getattr(node: ast.Call) -> bool:
    named = node.args[1] if len(node.args) > 1 else None
    return isinstance(named, ast.Constant) and isinstance(named.value, str) and named.value not in DANGEROUS
