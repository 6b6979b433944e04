"""KeyStore: keys of the API. Kept is the sha-256 of a secret, never the secret; every call asks the store anew."""

import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import redis.asyncio

from schemas.base import compute_sha256
from schemas.errors import Conflict, Fault, NotFound
from schemas.keys import KEY, OPERATOR, KeyInfo, KeyRotation, KeyScope, KeyState, MadeKey, NewKey
from storage.changes import ChangeFeed
from storage.connection import reaching_store
from storage.records import pair_fields
from storage.scripts import KEY_PREFIX, KeyScript, load_script

NAMES: Final[tuple[KeyScript, ...]] = ("key_create", "key_check", "key_revoke", "key_page")
NOBODYS_ID: Final = "0" * 16
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuv"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Holder:
    """Whose a presented key is, and whether it still opens anything."""

    id: str
    state: KeyState
    tenant: str
    label: str
    scopes: tuple[KeyScope, ...]


class KeyStore:
    """Every call may be repeated when its reply was lost. `client` must give bytes.

    Raises Unavailable when the store is out of reach for longer than the client tries.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._feed = ChangeFeed(client, f"{KEY_PREFIX}key_changes")
        self._scripts = {name: client.register_script(load_script(name)) for name in NAMES}

    async def check(self, presented: str) -> Holder | None:
        """Return whose key this is, None when it is nobody's; what is no key at all takes as long as what is one."""
        found = KEY.fullmatch(presented)
        id, secret = found.groups() if found else (NOBODYS_ID, "")
        reply = await self._run("key_check", id, compute_sha256(secret.encode()))
        if reply[0] == b"unknown":
            return None
        state, tenant, label, scopes = (part.decode() for part in reply)
        return Holder(id, cast("KeyState", state), tenant, label, _read_scopes(scopes))

    async def create(self, new: NewKey, tenant: str, created_by: str) -> MadeKey:
        """Return a new key.

        Raises:
            Conflict: when tenant and label have two live keys.

        """
        life_s = "" if new.expires_in_s is None else new.expires_in_s
        return await self._make(tenant, new.label, ",".join(sorted(new.scopes)), life_s, created_by, "", 0)

    async def rotate(self, id: str, tenant: str, rotation: KeyRotation, created_by: str) -> MadeKey:
        """Return a successor with the same tenant, label and scopes; the old key ends after the overlap.

        Raises:
            NotFound: when the tenant has no such key.
            Conflict: when the key is not live, or has a live successor already.

        """
        life_s = "" if rotation.expires_in_s is None else rotation.expires_in_s
        return await self._make(tenant, "", "", life_s, created_by, id, rotation.overlap_s)

    async def revoke(self, id: str, tenant: str | None) -> KeyInfo:
        """Return the key, which opens nothing from now on; None is any tenant.

        Raises:
            NotFound: when there is no such key.

        """
        reply = await self._run("key_revoke", id, tenant or "")
        if reply[0] == b"missing":
            raise NotFound(describe_no_key(id))
        return _read_info(id, pair_fields(reply[1]), datetime.now(UTC))

    async def get(self, id: str, tenant: str | None) -> KeyInfo:
        """Return the key; None is any tenant.

        Raises:
            NotFound: when there is no such key.

        """
        with reaching_store():
            fields = cast("dict[bytes, bytes]", await self._client.hgetall(f"{KEY_PREFIX}key:{id}"))
        if not fields or tenant not in {None, fields[b"tenant"].decode()}:
            raise NotFound(describe_no_key(id))
        return _read_info(id, fields, datetime.now(UTC))

    async def page(self, tenant: str | None, limit: int, cursor: str | None) -> tuple[tuple[KeyInfo, ...], str | None]:
        """Return up to `limit` keys of the tenant, or of all, newest first, and the cursor of the next page if there is one."""
        now, more, *items = await self._run("key_page", tenant or "", cursor or "", limit)
        at = _read_time(now)
        infos = tuple(
            _read_info(id.decode(), pair_fields(fields), at) for id, fields in zip(items[::2], items[1::2], strict=True)
        )
        return infos, infos[-1].id if more == b"1" else None

    async def has_operator(self) -> bool:
        """Tell whether any live key can make others for every tenant."""
        cursor: str | None = None
        while True:
            infos, cursor = await self.page(OPERATOR, 100, cursor)
            if any(info.state == "live" and "admin" in info.scopes for info in infos):
                return True
            if cursor is None:
                return False

    async def wait_for_end(self, id: str, timeout_s: float) -> bool:
        """Wait until the key opens nothing any more; False when time ran out before."""

        async def has_ended() -> bool:
            with reaching_store():
                expires_at, revoked_at = await self._client.hmget(f"{KEY_PREFIX}key:{id}", ["expires_at", "revoked_at"])
            return revoked_at is not None or (expires_at is not None and _read_time(expires_at) <= datetime.now(UTC))

        return await self._feed.wait(id, has_ended, timeout_s)

    async def close(self) -> None:
        """Stop listening for changes; the client stays open."""
        await self._feed.close()

    async def _make(
        self, tenant: str, label: str, scopes: str, life_s: int | str, created_by: str, old_id: str, overlap_s: int
    ) -> MadeKey:
        id, secret = make_id(time.time()), secrets.token_hex(32)
        sha256 = compute_sha256(secret.encode())
        reply = await self._run("key_create", id, sha256, tenant, label, scopes, life_s, created_by, old_id, overlap_s)
        if reply[0] == b"missing":
            raise NotFound(describe_no_key(old_id))
        if reply[0] == b"full":
            raise Conflict(_describe_full(tenant, label, [one.decode() for one in reply[1:]]))
        if reply[0] == b"dead":
            raise Conflict(_describe_dead(_read_info(old_id, pair_fields(reply[1]), datetime.now(UTC))))
        return MadeKey(key=f"fl_{id}_{secret}", info=_read_info(id, pair_fields(reply[1]), datetime.now(UTC)))

    async def _run(self, name: KeyScript, *arguments: str | bytes | int) -> Any:
        with reaching_store():
            return await self._scripts[name](keys=[KEY_PREFIX], args=arguments)


def make_id(now: float) -> str:
    """Return a new id: the second in 7 digits of 5 bits, then 45 random bits, so that ids sort by time."""
    bits = int(now) << 45 | secrets.randbits(45)
    return "".join(_DIGITS[bits >> shift & 31] for shift in range(75, -1, -5))


def describe_no_key(id: str) -> Fault:
    """Return the fault of a key id that leads nowhere."""
    return Fault("there is no such key", "path: key_id", "the id of a key", id, "GET /v1/keys lists them.")


def _read_info(id: str, fields: dict[bytes, bytes], now: datetime) -> KeyInfo:
    text = {name.decode(): value.decode() for name, value in fields.items()}
    times = {name: _read_time(text[name]) if name in text else None for name in ("expires_at", "revoked_at", "last_used_at")}
    expires_at = times["expires_at"]
    state: KeyState = "revoked" if times["revoked_at"] else "expired" if expires_at is not None and expires_at <= now else "live"
    return KeyInfo(
        id=id,
        tenant=text["tenant"],
        label=text["label"],
        scopes=_read_scopes(text["scopes"]),
        state=state,
        created_at=_read_time(text["created_at"]),
        created_by=text["created_by"],
        **times,
    )


def _read_scopes(text: str) -> tuple[KeyScope, ...]:
    return cast("tuple[KeyScope, ...]", tuple(text.split(",")))


def _read_time(microseconds: str | bytes) -> datetime:
    return _EPOCH + timedelta(microseconds=int(microseconds))


def _describe_full(tenant: str, label: str, ids: list[str]) -> Fault:
    what = f"tenant {tenant} has two live keys {f'labelled {label!r}' if label else 'with this label'}"
    advice = "Revoke one of them first, or choose another label."
    return Fault(what, "/label" if label else "path: key_id", "at most one live key before this", " and ".join(ids), advice)


def _describe_dead(info: KeyInfo) -> Fault:
    what = f"the key is {info.state}, so it has no successor"
    return Fault(what, "path: key_id", "a live key", info.state, "Make a new key with POST /v1/keys.")
