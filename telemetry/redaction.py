"""Takes secrets out of what is logged: keys, passwords in addresses, queries of addresses, bearer tokens."""

import re
from collections.abc import Callable
from typing import Final

HIDDEN: Final = "***"

_RULES: Final[tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...]] = (
    # A key is fl_<id>_<secret>; its id may be seen, for it says which key to revoke.
    (re.compile(r"\b(fl_[A-Za-z0-9]{1,64}_)[A-Za-z0-9_-]+"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{4,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/?#@'\"]*@"), rf"\1{HIDDEN}@"),
    # Also the quoted form, and what a log line of a client library holds: the address may go on after the query's end.
    (re.compile(r"(?i)\b(https?|s3)(://[^\s?#'\"<>]*)\?[^\s#'\"<>]*"), rf"\1\2?{HIDDEN}"),
    (
        re.compile(r"(?i)\b((?:x-amz-|x-goog-)?(?:signature|credential|security-token)|sig|awsaccesskeyid)=[^\s&'\"]+"),
        rf"\1={HIDDEN}",
    ),
)


def redact(text: str) -> str:
    """Return `text` without its secrets.

    >>> redact("GET https://u:p@host/file?X-Amz-Signature=1 with fl_ab12_s3cret")
    'GET https://***@host/file?*** with fl_ab12_***'
    """
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text
