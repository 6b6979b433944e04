"""Check the text of a shape expression. PyTorch's own reader evaluates it; this one compares texts and never evaluates any."""

import re
from typing import Any

from schemas.errors import Fault, ModelRefused
from worker.engine.models.aten.allowlist import split_names
from worker.engine.models.pt2.reading import read_text

MAX_LENGTH = 20_000

FUNCTIONS = split_names("""
Symbol Dummy Integer Rational Float Add Mul Pow Abs Max Min Mod Piecewise ExprCondPair And Or Not Xor Tuple
Equality Unequality Relational LessThan GreaterThan StrictLessThan StrictGreaterThan Eq Ne Le Lt Ge Gt
floor ceiling log exp sqrt sign FloorDiv ModularIndexing Where PythonMod CleanDiv CeilDiv CeilToInt FloorToInt LShift RShift
PowByNatural FloatPow FloatTrueDiv IntTrueDiv TruncToFloat TruncToInt RoundToInt RoundDecimal ToFloat Identity
IsNonOverlappingAndDenseIndicator BitwiseFn_bitwise_and BitwiseFn_bitwise_or BitwiseFn_bitwise_xor OpaqueUnaryFn_sqrt
OpaqueUnaryFn_log2 OpaqueUnaryFn_exp
""")
"""What sympy's representation of a size is made of."""

TOKEN = re.compile(r"\s*(?:(?P<call>[A-Za-z_]\w*)\(|'[\w.+-]+'|[a-z_]+=(?:True|False|\d+)|-?\d+(?:\.\d+)?|true|false|[(),])")


def check_expression(value: Any, where: str) -> str:
    """Return the text of a shape expression.

    Args:
        value: such as `Mul(Integer(2), Symbol('s0', positive=True, integer=True))`.
        where: its place in the file.

    Raises:
        ModelRefused: if it holds anything but sympy's arithmetic on symbols and integers.

    >>> check_expression("Add(Symbol('s0', integer=True), Integer(-1))", "here")
    "Add(Symbol('s0', integer=True), Integer(-1))"
    """
    text = read_text(value, where)
    position = 0
    while position < len(text) <= MAX_LENGTH:
        found = TOKEN.match(text, position)
        if found is None or (found["call"] and found["call"] not in FUNCTIONS):
            break
        position = found.end()
    if position < len(text):
        raise ModelRefused(
            Fault(
                "a shape expression holds more than arithmetic on sizes",
                where=where,
                expected="sympy's symbols, integers and arithmetic",
                got=repr(text[position : position + 60]),
                advice="such text runs as code in other readers of this file; do not open it with torch.export.load",
            )
        )
    return text
