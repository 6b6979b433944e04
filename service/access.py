"""Who may call what: one rule for all routes. What is not named here needs a key, and what changes something is recorded."""

from typing import NamedTuple

from schemas.keys import KeyScope

OPEN = frozenset({"/v1", "/healthz", "/readyz", "/openapi.json", "/docs", "/docs/docs.css", "/docs/docs.js"})
"""Told to everybody: nothing of a tenant is in it."""
ADMIN = ("/v1/keys", "/v1/audit-log", "/v1/webhook-secret")
PURE = frozenset({"/v1/verdicts"})
"""Posted to, and nothing is kept: the answer is computed from the body and what the caller may read."""
UPLOADS = "/v1/uploads"
"""Who sends a file in several requests asks how far it is."""
SAFE_METHODS = frozenset({"GET", "HEAD"})


class Access(NamedTuple):
    """The scope that a call needs, None for none, and whether it changes what is stored."""

    scope: KeyScope | None
    changes: bool


def find_access(method: str, route: str) -> Access:
    """Return what a method on a route's path takes.

    >>> find_access("GET", "/v1/audits"), find_access("POST", "/v1/audits").scope, find_access("POST", "/v1/verdicts").scope
    (Access(scope='read', changes=False), 'submit', 'read')
    """
    changes = method not in SAFE_METHODS and route not in PURE
    if route in OPEN:
        return Access(None, changes)
    if route.startswith(ADMIN):
        return Access("admin", changes)
    return Access("submit" if changes or route.startswith(UPLOADS) else "read", changes)
