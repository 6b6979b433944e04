"""The API with keys asked for, and keys of every kind for it, straight from the store."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from schemas.keys import KeyRotation, KeyScope, NewKey
from service.settings import Settings
from storage.connection import connect_async
from storage.keys import KeyStore
from tests.service.running import running_app

T = TypeVar("T")
TENANT, OTHER = "acme", "globex"


@dataclass
class Keyring:
    """Makes keys without asking for one, as the operator does on the store."""

    redis_url: str
    made: dict[str, str] = field(default_factory=dict)

    def run(self, call: Callable[[KeyStore], Coroutine[Any, Any, T]]) -> T:
        async def inside() -> T:
            async with connect_async(self.redis_url) as client:
                return await call(KeyStore(client))

        return asyncio.run(inside())

    def make(self, label: str, *scopes: KeyScope, tenant: str = TENANT) -> str:
        new = NewKey(label=label, scopes=scopes)
        self.made[label] = self.run(lambda keys: keys.create(new, tenant, "test")).key
        return self.made[label]

    def make_expired(self) -> str:
        key = self.make("expired", "read", "submit", "admin")
        self.run(lambda keys: keys.rotate(read_id(key), TENANT, KeyRotation(overlap_s=0), "test"))
        return key

    def make_revoked(self) -> str:
        key = self.make("revoked", "read", "submit", "admin")
        self.run(lambda keys: keys.revoke(read_id(key), None))
        return key


def read_id(key: str) -> str:
    return key.split("_")[1]


@contextmanager
def running_keyed(redis_url: str, data_dir: Path, **settings: Any) -> Iterator[str]:
    """Serve the app with keys required; yield its URL."""
    with running_app(Settings(redis_url=redis_url, data_dir=data_dir, auth="required", max_wait_s=20, **settings)) as url:
        yield url


def open_client(url: str, key: str | None) -> httpx2.Client:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx2.Client(base_url=url, timeout=30, headers=headers)
