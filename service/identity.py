"""Who is calling: the holder of a key, or, where no key is asked for, the one who runs this machine."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from schemas.errors import Fault, Forbidden, NotAuthenticated
from schemas.keys import OPERATOR, KeyScope, list_allowed
from service.access import find_access
from service.browsers import check_host, check_origin, is_loopback
from service.resources import Held, Resources
from service.settings import Settings
from storage.keys import Holder

LOCAL_OWNER = "local"
LONGEST_HEADER = 200
_EXPECTED = "Authorization: Bearer fl_..."
_ADVICE = "Send the key in this header, once; an admin makes keys with `faultline keys create`."


@dataclass(frozen=True)
class Caller:
    """The caller's tenant, which owns its artifacts and audits, its key if it has shown one, and what it may do."""

    owner: str
    key_id: str | None
    allowed: frozenset[KeyScope]

    @property
    def is_operator(self) -> bool:
        """Whether it manages the keys of every tenant."""
        return "admin" in self.allowed and (self.key_id is None or self.owner == OPERATOR)


LOCAL_CALLER = Caller(LOCAL_OWNER, None, list_allowed(("admin",)))


async def authorise(request: Request, held: Held) -> Caller:
    """Return who calls, if that one may call this route; every route depends on it.

    Raises:
        NotAuthenticated: without a key that is live.
        Forbidden: when the key lacks the route's scope, or another site's page sent the call.

    """
    access = find_access(request.method, request.scope["route"].path)
    caller = LOCAL_CALLER
    if held.settings.is_keyless:
        _check_nearness(request, held.settings)
    elif access.scope is not None:
        caller = await _find_caller(request, held)
        await held.limiter.admit(caller.owner)
    request.state.caller = caller
    if access.scope is not None and access.scope not in caller.allowed:
        held_scopes = ", ".join(sorted(caller.allowed))
        advice = "Use a key with this scope."
        raise Forbidden(Fault("the key's scopes do not allow this", "header: Authorization", access.scope, held_scopes, advice))
    return caller


async def find_owner(caller: Annotated[Caller, Depends(authorise)]) -> str:
    """Return the owner that artifacts and audits of this caller belong to."""
    return caller.owner


Owner = Annotated[str, Depends(find_owner)]
Called = Annotated[Caller, Depends(authorise)]


def _check_nearness(request: Request, settings: Settings) -> None:
    """Check, where no key is asked for, that the call is from this machine and no page of another site sent it."""
    if settings.auth == "auto":
        # Another server program may bind another address than the settings say; the connection knows.
        local_address = (request.scope.get("server") or ("",))[0]
        if not is_loopback(local_address):
            what = "without keys this service answers on this machine only"
            raise Forbidden(Fault(what, "connection", "a loopback address", local_address or "a socket", "Set FAULTLINE_AUTH."))
        check_host(request.headers)
    check_origin(request.headers)


async def _find_caller(request: Request, held: Resources) -> Caller:
    values = request.headers.getlist("authorization")
    holder = await held.keys.check(_read_bearer(values))
    if holder is None or holder.state != "live":
        raise NotAuthenticated(_explain(values, holder))
    return Caller(holder.tenant, holder.id, list_allowed(holder.scopes))


def _read_bearer(values: list[str]) -> str:
    """Return what one Authorization header presents as its key; nothing for no or several headers and other schemes."""
    scheme, _, presented = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    return presented if scheme.lower() == "bearer" and len(presented) <= LONGEST_HEADER else ""


def _explain(values: list[str], holder: Holder | None) -> Fault:
    """Return what is wrong. Only who knows the secret is told that a key has ended; nobody is told what was sent."""
    if holder is not None:
        return Fault(
            f"the key is {holder.state}", "header: Authorization", "a live key", f"key {holder.id}", "Use its successor."
        )
    what = "no key was sent" if not values else "the key is not known"
    got = "no such header" if not values else f"{len(values)} headers" if len(values) > 1 else "something else"
    return Fault(what, "header: Authorization", _EXPECTED, got, _ADVICE)
