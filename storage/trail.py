"""Trail: the audit log in the store, one stream per tenant. It can be written to and read; nothing here alters or removes."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import redis.asyncio

from schemas.trail import TrailEntry
from storage.connection import reaching_store
from storage.scripts import KEY_PREFIX

ENTRY_ID: Final = re.compile(r"[1-9][0-9]{0,14}-[0-9]{1,10}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Trail:
    """A stream of its own keeps one tenant's calls from pushing out another's. `client` must give bytes.

    The newest `capacity` entries of each tenant are kept, or a few more. Raises Unavailable when the store is out of reach.
    """

    def __init__(self, client: redis.asyncio.Redis, capacity: int) -> None:
        self._client = client
        self._capacity = capacity

    async def append(self, tenant: str, fields: dict[str, str]) -> None:
        """Write an entry, with the time of the store's clock; twice when the store's reply was lost."""
        with reaching_store():
            await self._client.xadd(_name(tenant), cast("Any", fields), maxlen=self._capacity, approximate=True)

    async def page(self, tenant: str, limit: int, cursor: str | None) -> tuple[tuple[TrailEntry, ...], str | None]:
        """Return up to `limit` entries of the tenant, newest first, and the cursor of the next page if there is one."""
        before = "+" if cursor is None else f"({cursor}"
        with reaching_store():
            reply = await self._client.xrevrange(_name(tenant), max=before, count=limit + 1)
        found = cast("list[tuple[bytes, dict[bytes, bytes]]]", reply)
        entries = tuple(_read_entry(tenant, id.decode(), fields) for id, fields in found[:limit])
        return entries, entries[-1].id if len(found) > limit else None


def _name(tenant: str) -> str:
    return f"{KEY_PREFIX}trail:{tenant}"


def _read_entry(tenant: str, id: str, fields: dict[bytes, bytes]) -> TrailEntry:
    text = {name.decode(): value.decode() for name, value in fields.items()}
    return TrailEntry(
        id=id,
        at=_EPOCH + timedelta(milliseconds=int(id.partition("-")[0])),
        tenant=tenant,
        key_id=text["key_id"] or None,
        action=text["action"],
        target=text["target"],
        status=int(text["status"]),
        request_id=text["request_id"],
        client=text["client"],
    )
