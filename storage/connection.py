"""Clients of the store, and the one place where its failures become Unavailable.

Every script of ours may be repeated without harm, so the clients repeat calls whose reply was lost.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import MasterDownError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as StoreTimeoutError
from redis.retry import Retry

from schemas.errors import Fault, Unavailable
from storage.urls import check_redis_url

TIMEOUT_S: Final = 5.0
SERVICE_CONNECTIONS: Final = 32
SERVICE_RETRIES: Final = 3
"""Together about half a second: a client of the API is told to come again rather than kept waiting."""
WORKER_RETRIES: Final = 9
"""Together about five seconds: a store that restarts costs no audit its worker."""

PASSING = (StoreConnectionError, StoreTimeoutError, ReadOnlyError, MasterDownError, OutOfMemoryError)
PASSING_CODES = ("MISCONF ", "NOREPLICAS ", "BUSY ")
"""Answers of a server that cannot write at the moment: disk full, no replica, a script that runs too long."""


def _make_backoff() -> ExponentialWithJitterBackoff:
    return ExponentialWithJitterBackoff(base=0.05, cap=1.0)


def connect(redis_url: str, retries: int = WORKER_RETRIES) -> redis.Redis:
    """Return a client for `Leases`; it connects on first use."""
    return redis.Redis.from_url(
        check_redis_url(redis_url),
        retry=Retry(_make_backoff(), retries),
        socket_timeout=TIMEOUT_S,
        health_check_interval=30,
    )


def connect_async(redis_url: str, retries: int = SERVICE_RETRIES) -> redis.asyncio.Redis:
    """Return a client for `JobQueue`; it connects on first use, and calls beyond its connections wait for one."""
    # The default pool answers the call after its last connection with an error: a burst of requests would be refused.
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        check_redis_url(redis_url),
        max_connections=SERVICE_CONNECTIONS,
        timeout=TIMEOUT_S,
        retry=AsyncRetry(_make_backoff(), retries),
        socket_timeout=TIMEOUT_S,
        health_check_interval=30,
    )
    return redis.asyncio.Redis.from_pool(pool)


@contextmanager
def reaching_store() -> Iterator[None]:
    """Turn failures of the store that may pass into Unavailable; serves plain and async code alike."""
    try:
        yield
    except PASSING as error:
        raise _say_unavailable(error) from error
    except ResponseError as error:
        if not str(error).startswith(PASSING_CODES):
            raise
        raise _say_unavailable(error) from error


def _say_unavailable(error: Exception) -> Unavailable:
    return Unavailable(
        Fault(
            "the job store is out of reach or cannot write",
            where="job store",
            expected="an answer",
            got=f"{type(error).__name__}: {error}",
            advice="try again shortly; if it lasts, look at the store's log and disk",
        )
    )
