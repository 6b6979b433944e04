"""Keys: make, list, look at, rotate, revoke; and the audit log. For admins only."""

from typing import Annotated

from fastapi import Path, Query, Request, Response

from schemas.errors import BadBody, Conflict, InvalidRequest, NotFound, TooLarge, UnsupportedMedia
from schemas.keys import KeyInfo, KeyPage, KeyRotation, MadeKey, NewKey
from schemas.trail import TrailPage
from service.answers import answer_model
from service.bodies import read_document
from service.identity import Called
from service.keys import KEYS, KeyQuery, check_tenant, create_key, find_key, list_keys, revoke_key, rotate_key
from service.openapi import keys as examples
from service.openapi.declare import answers, refuses, takes
from service.paging import TrailQuery
from service.resources import Held
from service.routes.router import make_router
from service.strict_json import ModelT, check_json

router = make_router("keys")

KeyIdInPath = Annotated[
    str, Path(description="Id of the key: what stands between fl_ and the secret.", examples=[examples.KEY_ID])
]
POSTED = (BadBody, Conflict, InvalidRequest, TooLarge, UnsupportedMedia)
MAX_BODY_BYTES = 16 * 1024
UNSEEN = {"cache-control": "no-store"}
"""For answers with a secret."""


@router.post(
    KEYS,
    status_code=201,
    openapi_extra=takes(NewKey, examples.NEW_KEY),
    responses=answers(201, "The key; it is told this once.", MadeKey, examples.MADE_KEY, "Location") | refuses(*POSTED),
)
async def post_key(request: Request, caller: Called, held: Held) -> Response:
    """Make a key. A tenant has at most two live keys of one label, so that one can follow the other."""
    return _answer_made(await create_key(held.keys, caller, await _read(NewKey, request)))


@router.get(KEYS, responses=answers(200, "One page, newest first.", KeyPage, examples.KEY_PAGE) | refuses(InvalidRequest))
async def get_keys(query: Annotated[KeyQuery, Query()], caller: Called, held: Held) -> Response:
    """List keys, without their secrets, also those that ended in the last 90 days."""
    return answer_model(await list_keys(held.keys, caller, query))


@router.get(KEYS + "/{key_id}", responses=answers(200, "The key.", KeyInfo, examples.KEY_INFO) | refuses(NotFound))
async def get_key(key_id: KeyIdInPath, caller: Called, held: Held) -> Response:
    """Show a key, without its secret."""
    return answer_model(await find_key(held.keys, caller, key_id))


@router.delete(KEYS + "/{key_id}", responses=answers(200, "The key, revoked.", KeyInfo, examples.REVOKED_KEY) | refuses(NotFound))
async def delete_key(key_id: KeyIdInPath, caller: Called, held: Held) -> Response:
    """Revoke a key for good: no call that comes later is let in by it, and waits under way end."""
    return answer_model(await revoke_key(held.keys, caller, key_id))


@router.post(
    KEYS + "/{key_id}/rotate",
    status_code=201,
    openapi_extra=takes(KeyRotation, examples.KEY_ROTATION),
    responses=answers(201, "The successor; it is told this once.", MadeKey, examples.MADE_KEY, "Location")
    | refuses(*POSTED, NotFound),
)
async def post_rotation(key_id: KeyIdInPath, request: Request, caller: Called, held: Held) -> Response:
    """Make a key with the same tenant, label and scopes; the old one works until the overlap is over."""
    rotation = await _read(KeyRotation, request)
    return _answer_made(await rotate_key(held.keys, caller, key_id, rotation))


@router.get(
    "/v1/audit-log",
    responses=answers(200, "One page, newest first.", TrailPage, examples.TRAIL_PAGE) | refuses(InvalidRequest),
)
async def get_audit_log(query: Annotated[TrailQuery, Query()], caller: Called, held: Held) -> Response:
    """Tell which calls have changed something: who, what, when, from where, and how it ended."""
    tenant = check_tenant(caller, query.tenant or caller.owner, "query: tenant")
    entries, following = await held.trail.page(tenant, query.limit, query.cursor)
    return answer_model(TrailPage(items=entries, next=following))


def _answer_made(made: MadeKey) -> Response:
    return answer_model(made, 201, {"location": f"{KEYS}/{made.info.id}", **UNSEEN})


async def _read(model: type[ModelT], request: Request) -> ModelT:
    return check_json(model, *await read_document(request, MAX_BODY_BYTES))
