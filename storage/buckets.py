"""TokenBuckets: how often each tenant may still call, shared by all API processes."""

from typing import Any, Final

import redis.asyncio

from storage.connection import reaching_store
from storage.scripts import KEY_PREFIX, load_script

MILLISECONDS: Final = 1000


class TokenBuckets:
    """One bucket per tenant, in the store and on its clock. Raises Unavailable when the store is out of reach."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._take = client.register_script(load_script("take_tokens"))

    async def take(self, tenant: str, rate: float, burst: int, wanted: int) -> tuple[int, float]:
        """Return how many of the wanted tokens were there, and the seconds until the next one if none was."""
        with reaching_store():
            reply: Any = await self._take(keys=[KEY_PREFIX], args=[tenant, rate, burst, wanted])
        return int(reply[0]), int(reply[1]) / MILLISECONDS
