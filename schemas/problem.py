"""Problem: an RFC 9457 problem+json document that lists every fault at once."""

import unicodedata

from schemas.base import Output
from schemas.errors import FaultlineError
from schemas.keys import hide_keys

MEDIA_TYPE = "application/problem+json"
MAX_TEXT = 2000


class ProblemItem(Output):
    """One fault: what is wrong, where, what was expected, what came, and what to do."""

    what: str
    where: str
    expected: str
    got: str
    advice: str


class Problem(Output):
    """RFC 9457 document; `code` is stable and machine-readable, `errors` is complete."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: tuple[ProblemItem, ...]


def clean_text(text: str, limit: int = MAX_TEXT) -> str:
    r"""Return `text` with control and format characters escaped, secrets of keys left out, and its length bounded.

    >>> clean_text("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    kept = hide_keys(text[: limit + 200])[: limit + 1]
    shown = "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else ascii(c)[1:-1] for c in kept)
    return shown if len(text) <= limit else shown[:limit] + "…"


def build_problem(error: FaultlineError) -> Problem:
    """Return the document that a client sees for `error`; text from models and data is escaped."""
    items = tuple(
        ProblemItem(
            what=clean_text(fault.what),
            where=clean_text(fault.where),
            expected=clean_text(fault.expected),
            got=clean_text(fault.got),
            advice=clean_text(fault.advice),
        )
        for fault in error.faults
    )
    return Problem(
        type=f"urn:faultline:problem:{error.code}",
        title=error.title,
        status=error.status,
        code=error.code,
        detail="; ".join(item.what for item in items) or error.title,
        errors=items,
    )
