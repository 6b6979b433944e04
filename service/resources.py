"""What the API holds open while it runs: job queue, artifact store, doorbell, keys, audit log."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Annotated

from fastapi import Depends, FastAPI, Request

from schemas.version import VERSION
from service.limits import RateLimiter
from service.settings import Settings
from storage.artifacts import ArtifactStore, FileArtifactStore
from storage.buckets import TokenBuckets
from storage.collection import Collector
from storage.connection import SERVICE_RETRIES, connect, connect_async
from storage.doorbell import Doorbell
from storage.keys import KeyStore
from storage.queue import JobQueue
from storage.quota import Quota
from storage.resumable import ResumableUploads
from storage.trail import Trail
from telemetry.exporter import Exporter


@dataclass(frozen=True)
class Resources:
    """Everything that the routes hand to plain functions; `draining` is set when the process was told to stop."""

    settings: Settings
    queue: JobQueue
    artifacts: ArtifactStore
    uploads: ResumableUploads
    quota: Quota
    collector: Collector
    doorbell: Doorbell
    keys: KeyStore
    trail: Trail
    limiter: RateLimiter
    draining: asyncio.Event


@asynccontextmanager
async def open_resources(settings: Settings) -> AsyncIterator[Resources]:
    """Open the stores; the broker is dialled at the first call, so that a late broker does not stop the start."""
    root = settings.data_dir / "artifacts"
    artifacts = FileArtifactStore(root)
    uploads = ResumableUploads(root, artifacts)
    quota = Quota(root, artifacts, uploads, settings.quota_bytes)
    collecting = connect(settings.redis_url, SERVICE_RETRIES)
    collector = Collector(collecting, artifacts, uploads)
    redis = connect_async(settings.redis_url)
    queue, keys, trail = JobQueue(redis), KeyStore(redis), Trail(redis, settings.audit_log_entries)
    limiter = RateLimiter(TokenBuckets(redis), settings)
    doorbell = Doorbell(settings.redis_url)
    draining = asyncio.Event()
    exporter = None if settings.otlp_endpoint is None else Exporter.open("faultline-service", VERSION, settings.otlp_endpoint)
    try:
        with _watch_for_stop(draining):
            yield Resources(settings, queue, artifacts, uploads, quota, collector, doorbell, keys, trail, limiter, draining)
    finally:
        if exporter is not None:
            await asyncio.to_thread(exporter.close)
        doorbell.close()
        await queue.close()
        await keys.close()
        await redis.aclose()
        collecting.close()


@contextmanager
def _watch_for_stop(draining: asyncio.Event) -> Iterator[None]:
    """Set `draining` on SIGTERM and SIGINT and pass them on; the server itself tells an app only after its last answer."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(draining.set)
        handler = previous[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in previous:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@asynccontextmanager
async def hold_resources(app: FastAPI) -> AsyncIterator[None]:
    """Keep the resources open for the life of `app`."""
    async with open_resources(app.state.settings) as app.state.resources:
        yield


async def find_resources(request: Request) -> Resources:
    """Return what this app holds open."""
    resources: Resources = request.app.state.resources
    return resources


Held = Annotated[Resources, Depends(find_resources)]
