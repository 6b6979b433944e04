"""Keys in the store: what is kept, who is told what, how many live, and how they end."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

import pytest
import redis

from schemas.base import compute_sha256
from schemas.errors import Conflict, NotFound
from schemas.keys import KEY, KeyRotation, MadeKey, NewKey
from storage.keys import KeyStore, make_id
from tests.storage.desk import Desk

NEW = NewKey(label="ci", scopes=("submit", "read"))
Run = Callable[[Callable[[KeyStore], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture
def run(desk: Desk) -> Run:
    """Call a key store of its own."""

    def call(function: Callable[[KeyStore], Coroutine[Any, Any, Any]]) -> Any:
        async def inside() -> Any:
            async with desk.server.connect_async() as client:
                keys = KeyStore(client)
                try:
                    return await function(keys)
                finally:
                    await keys.close()

        return asyncio.run(inside())

    return call


def make(run: Run, new: NewKey = NEW, tenant: str = "acme") -> MadeKey:
    made: MadeKey = run(lambda keys: keys.create(new, tenant, "test"))
    return made


def read_all(client: redis.Redis) -> bytes:
    """Return everything that the store holds, as bytes."""
    found = b""
    for key in client.scan_iter("*"):
        kind = client.type(key)
        found += key + b" "
        if kind == b"hash":
            found += b" ".join(cast("list[bytes]", client.hvals(key)))
        elif kind == b"string":
            found += client.get(key) or b""
    return found


def test_the_store_holds_the_digest_and_never_the_secret(run: Run, desk: Desk) -> None:
    made = make(run)
    found = KEY.fullmatch(made.key)
    assert found is not None
    id, secret = found.groups()
    assert id == made.info.id
    held = read_all(desk.client)
    assert secret.encode() not in held
    assert compute_sha256(secret.encode()).encode() in held


def test_secrets_have_256_bits_and_never_come_twice(run: Run) -> None:
    keys = [make(run, NewKey(label=f"n{i}", scopes=("read",))).key for i in range(50)]
    secrets = {key.split("_")[2] for key in keys}
    assert len(secrets) == 50
    assert all(len(bytes.fromhex(secret)) == 32 for secret in secrets)


def test_only_the_whole_key_is_known(run: Run) -> None:
    made = make(run)
    holder = run(lambda keys: keys.check(made.key))
    assert (holder.id, holder.state, holder.tenant, holder.scopes) == (made.info.id, "live", "acme", ("read", "submit"))
    wrong = f"{made.key[:-1]}{'0' if made.key[-1] != '0' else '1'}"
    for presented in (
        wrong,
        made.key[:-1],
        made.key.upper(),
        f"{made.key} ",
        f"fl_{make_id(0)}_{'0' * 64}",
        "",
        "fl__",
        "\udcff",
    ):
        assert run(partial(KeyStore.check, presented=presented)) is None


def test_a_revoked_key_opens_nothing_and_is_revoked_once(run: Run) -> None:
    made = make(run)
    first = run(lambda keys: keys.revoke(made.info.id, None))
    again = run(lambda keys: keys.revoke(made.info.id, "acme"))
    assert first.state == again.state == "revoked"
    assert first.revoked_at == again.revoked_at
    assert run(lambda keys: keys.check(made.key)).state == "revoked"
    with pytest.raises(NotFound):
        run(lambda keys: keys.revoke(made.info.id, "globex"))


def test_an_expired_key_opens_nothing(run: Run, desk: Desk) -> None:
    made = make(run, NewKey(label="short", scopes=("read",), expires_in_s=60))
    assert made.info.expires_at is not None
    assert abs(made.info.expires_at - made.info.created_at - timedelta(seconds=60)) < timedelta(seconds=1)
    assert run(lambda keys: keys.check(made.key)).state == "live"
    desk.client.hset(f"faultline:key:{made.info.id}", "expires_at", 1)
    assert run(lambda keys: keys.check(made.key)).state == "expired"
    assert run(lambda keys: keys.get(made.info.id, "acme")).state == "expired"


def test_two_keys_of_a_label_live_and_a_third_waits_for_one_to_end(run: Run) -> None:
    first, _ = make(run), make(run)
    with pytest.raises(Conflict, match="two live keys"):
        make(run)
    make(run, tenant="globex")
    make(run, NewKey(label="other", scopes=("read",)))
    run(lambda keys: keys.revoke(first.info.id, None))
    make(run)


def test_of_many_that_come_at_once_two_are_made(run: Run) -> None:
    async def race(keys: KeyStore) -> list[object]:
        return await asyncio.gather(*(keys.create(NEW, "acme", "test") for _ in range(20)), return_exceptions=True)

    ends = run(race)
    assert sum(isinstance(end, MadeKey) for end in ends) == 2
    assert sum(isinstance(end, Conflict) for end in ends) == 18


def test_a_successor_has_the_same_rights_and_the_old_key_ends_after_the_overlap(run: Run) -> None:
    old = make(run, NewKey(label="ci", scopes=("read",), expires_in_s=3600))
    new = run(lambda keys: keys.rotate(old.info.id, "acme", KeyRotation(overlap_s=100), "test"))
    assert (new.info.tenant, new.info.label, new.info.scopes) == ("acme", "ci", ("read",))
    assert abs(new.info.expires_at - new.info.created_at - timedelta(hours=1)) < timedelta(seconds=1)
    ends_at = run(lambda keys: keys.get(old.info.id, "acme")).expires_at
    assert abs(ends_at - datetime.now(UTC) - timedelta(seconds=100)) < timedelta(seconds=5)
    assert {run(partial(KeyStore.check, presented=key)).state for key in (old.key, new.key)} == {"live"}
    with pytest.raises(Conflict):
        run(lambda keys: keys.rotate(new.info.id, "acme", KeyRotation(), "test"))


def test_an_overlap_never_lengthens_a_life(run: Run) -> None:
    old = make(run, NewKey(label="ci", scopes=("read",), expires_in_s=60))
    run(lambda keys: keys.rotate(old.info.id, "acme", KeyRotation(overlap_s=3600), "test"))
    assert run(lambda keys: keys.get(old.info.id, "acme")).expires_at == old.info.expires_at


@pytest.mark.parametrize("tenant", ["globex", "acme:x", ""])
def test_nobody_rotates_a_key_of_another_tenant(run: Run, tenant: str) -> None:
    old = make(run)
    with pytest.raises(NotFound):
        run(lambda keys: keys.rotate(old.info.id, tenant, KeyRotation(), "test"))


def test_a_dead_key_has_no_successor(run: Run) -> None:
    old = make(run)
    run(lambda keys: keys.revoke(old.info.id, None))
    with pytest.raises(Conflict, match="revoked"):
        run(lambda keys: keys.rotate(old.info.id, "acme", KeyRotation(), "test"))


def test_pages_hold_every_key_once_and_other_tenants_none(run: Run, desk: Desk) -> None:
    made = [make(run, NewKey(label=f"n{i}", scopes=("read",)), tenant="acme" if i % 2 else "globex").info.id for i in range(9)]
    desk.client.delete(f"faultline:key:{made[1]}")  # its record has run out

    async def walk(keys: KeyStore, tenant: str | None) -> list[str]:
        found, cursor = [], None
        while True:
            infos, cursor = await keys.page(tenant, 2, cursor)
            found += [info.id for info in infos]
            if cursor is None:
                return found

    kept = set(made) - {made[1]}
    everything = run(lambda keys: walk(keys, None))
    assert set(everything) == kept
    assert everything == sorted(everything, reverse=True)
    assert set(run(lambda keys: walk(keys, "acme"))) == set(made[3::2])


def test_use_is_noted(run: Run) -> None:
    made = make(run)
    assert made.info.last_used_at is None
    run(lambda keys: keys.check(made.key))
    used_at = run(lambda keys: keys.get(made.info.id, None)).last_used_at
    assert abs(datetime.now(UTC) - used_at) < timedelta(seconds=10)


def test_who_waits_for_the_end_of_a_key_hears_of_its_revocation_at_once(run: Run) -> None:
    made = make(run)

    async def wait(keys: KeyStore) -> tuple[bool, bool]:
        early = await keys.wait_for_end(made.info.id, 0.1)
        waiting = asyncio.create_task(keys.wait_for_end(made.info.id, 4.0))
        await asyncio.sleep(0.05)
        await keys.revoke(made.info.id, None)
        return early, await asyncio.wait_for(waiting, 1.0)

    assert run(wait) == (False, True)
