"""Keys over HTTP: an admin manages those of its tenant, the operator those of every tenant. Nobody is given more than that."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from schemas.errors import Fault, Forbidden
from schemas.keys import TENANT, KeyId, KeyInfo, KeyPage, KeyRotation, MadeKey, NewKey
from service.identity import LOCAL_OWNER, Caller
from storage.keys import KeyStore

KEYS = "/v1/keys"
MAX_LIMIT = 100


class KeyQuery(BaseModel):
    """Query of GET /v1/keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    tenant: Annotated[str, Field(pattern=TENANT)] | None = None
    """Whose keys; left out, the caller's own, for the operator everybody's."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 50
    """Most keys on the page."""

    cursor: KeyId | None = None
    """Where the page starts: `next` of the page before."""


async def create_key(keys: KeyStore, caller: Caller, new: NewKey) -> MadeKey:
    """Return a new key of the caller's tenant, or of another that the operator names."""
    tenant = check_tenant(caller, new.tenant or caller.owner, "/tenant")
    return await keys.create(new, tenant, name_creator(caller))


async def rotate_key(keys: KeyStore, caller: Caller, id: str, rotation: KeyRotation) -> MadeKey:
    """Return the key's successor, with the same rights."""
    info = await find_key(keys, caller, id)
    return await keys.rotate(id, info.tenant, rotation, name_creator(caller))


async def find_key(keys: KeyStore, caller: Caller, id: str) -> KeyInfo:
    """Return a key that the caller manages; another tenant's is not found."""
    return await keys.get(id, None if caller.is_operator else caller.owner)


async def revoke_key(keys: KeyStore, caller: Caller, id: str) -> KeyInfo:
    """Return a key that the caller manages, revoked."""
    return await keys.revoke(id, None if caller.is_operator else caller.owner)


async def list_keys(keys: KeyStore, caller: Caller, query: KeyQuery) -> KeyPage:
    """Return one page of the keys that the caller manages."""
    tenant = query.tenant or (None if caller.is_operator else caller.owner)
    if tenant is not None:
        check_tenant(caller, tenant, "query: tenant")
    infos, following = await keys.page(tenant, query.limit, query.cursor)
    return KeyPage(items=infos, next=following)


def check_tenant(caller: Caller, tenant: str, where: str) -> str:
    """Return the tenant if the caller manages it.

    Raises:
        Forbidden: if it is another's; whether there is such a tenant is not told.

    """
    if caller.is_operator or tenant == caller.owner:
        return tenant
    raise Forbidden(Fault("another tenant is not yours to manage", where, caller.owner, tenant, "Ask the operator."))


def name_creator(caller: Caller) -> str:
    """Return what is noted of who made a key."""
    return caller.key_id or LOCAL_OWNER
