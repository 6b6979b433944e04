"""How often a tenant may call. Tokens come from the store in blocks: a busy tenant costs no write for every call."""

import asyncio
import math
import time
from collections import defaultdict
from dataclasses import dataclass, field

from schemas.errors import Fault, TooManyRequests
from service.settings import Limits, Settings
from storage.buckets import TokenBuckets

BLOCK_LIFE_S = 1.0
"""Tokens that are not used by then are lost: what is let through is never more than the buckets gave."""
BLOCKS_PER_S = 20


@dataclass
class _Block:
    """A tenant's tokens in this process, and until when it is known to have none."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    left: int = 0
    size: int = 0
    ends_at: float = 0.0
    empty_until: float = 0.0


class RateLimiter:
    """Lets a tenant's calls through while there are tokens for it."""

    def __init__(self, buckets: TokenBuckets, settings: Settings) -> None:
        self._buckets = buckets
        self._settings = settings
        self._blocks: dict[str, _Block] = defaultdict(_Block)

    async def admit(self, tenant: str) -> None:
        """Return if the tenant may call now.

        Raises:
            TooManyRequests: if it has called too often.

        """
        limits = self._settings.find_limits(tenant)
        if limits.requests_per_s == 0:
            return
        block = self._blocks[tenant]
        async with block.lock:
            now = time.monotonic()
            if (block.left == 0 or now > block.ends_at) and now >= block.empty_until:
                await self._fetch(tenant, block, now, limits)
            if block.left == 0:
                raise TooManyRequests(_explain(tenant, limits), retry_after_s=max(1, math.ceil(block.empty_until - now)))
            block.left -= 1

    async def _fetch(self, tenant: str, block: _Block, now: float, limits: Limits) -> None:
        """Take a block from the store: twice the last one if that was used up in time, else a single token."""
        most = max(1, int(limits.requests_per_s / BLOCKS_PER_S))
        block.size = min(2 * block.size, most) if block.left == 0 and now <= block.ends_at else 1
        block.left, wait_s = await self._buckets.take(tenant, limits.requests_per_s, limits.requests_burst, block.size)
        block.ends_at, block.empty_until = now + BLOCK_LIFE_S, now + wait_s


def _explain(tenant: str, limits: Limits) -> Fault:
    expected = f"at most {limits.requests_per_s:g} calls a second, {limits.requests_burst} at once"
    return Fault(f"tenant {tenant} calls too often", "", expected, "more", "Try again when Retry-After says.")
