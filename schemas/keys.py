"""Keys: what they may do, how they are made, and what is told of them. The secret is told once, when a key is made."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from schemas.base import Input, Output, UtcTime, check_unique

KeyScope = Literal["submit", "read", "admin"]
KeyState = Literal["live", "expired", "revoked"]
IMPLIED: dict[KeyScope, frozenset[KeyScope]] = {
    "read": frozenset({"read"}),
    "submit": frozenset({"submit"}),
    "admin": frozenset({"admin", "submit", "read"}),
}
"""What a scope allows. `submit` does not read: a machine that only hands in models sees no report."""

OPERATOR = "operator"
"""The tenant whose admin keys make and revoke the keys of every tenant."""

KEY = re.compile(r"fl_([0-9a-v]{16})_([0-9a-f]{64})")
"""A key: its id, and 256 random bits."""
_SECRET = re.compile(r"(fl_[0-9a-v]{1,16}_)[0-9A-Za-z]+")

TENANT = r"^[a-z0-9][a-z0-9_-]{0,62}$"
LABEL = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$"
DAY_S = 24 * 3600
LONGEST_S = 10 * 365 * DAY_S

Tenant = Annotated[str, Field(pattern=TENANT)]
Label = Annotated[str, Field(pattern=LABEL)]
KeyId = Annotated[str, Field(pattern=r"^[0-9a-v]{16}$")]
Life = Annotated[int, Field(ge=60, le=LONGEST_S)]


class NewKey(Input):
    """Body of POST /v1/keys. Left out, `tenant` is the caller's own."""

    label: Label
    scopes: Annotated[tuple[KeyScope, ...], Field(min_length=1, max_length=3)]
    tenant: Tenant | None = None
    expires_in_s: Life | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_unique(self.scopes)
        return self


class KeyRotation(Input):
    """Body of POST /v1/keys/{id}/rotate: how long the old key still works, and how long the new one will."""

    overlap_s: Annotated[int, Field(ge=0, le=90 * DAY_S)] = 7 * DAY_S
    expires_in_s: Life | None = None


class KeyInfo(Output):
    """A key without its secret. `last_used_at` is right to the minute."""

    id: str
    tenant: str
    label: str
    scopes: tuple[KeyScope, ...]
    state: KeyState
    created_at: UtcTime
    created_by: str
    expires_at: UtcTime | None
    revoked_at: UtcTime | None
    last_used_at: UtcTime | None


class MadeKey(Output):
    """A key that was just made, with its secret, which is nowhere kept and never told again."""

    key: str
    info: KeyInfo


class KeyPage(Output):
    """One page of keys, newest first; `next` is the cursor of the following page."""

    items: tuple[KeyInfo, ...]
    next: str | None


def hide_keys(text: str) -> str:
    """Return `text` with the secret of every key in it left out; the id stays.

    >>> hide_keys("got fl_0000000000000000_" + "ab" * 32)
    'got fl_0000000000000000_***'
    """
    return _SECRET.sub(r"\1***", text)


def list_allowed(scopes: tuple[KeyScope, ...]) -> frozenset[KeyScope]:
    """Return everything that a key with these scopes may do.

    >>> sorted(list_allowed(("admin",)))
    ['admin', 'read', 'submit']
    """
    none: frozenset[Any] = frozenset()
    return none.union(*(IMPLIED[scope] for scope in scopes))
