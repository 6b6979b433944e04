"""A small HTTP/1.1 client for load: prepared requests over kept connections, sent when they are due and not when it suits."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field


@dataclass
class Latencies:
    """Seconds from when each request was due to its answer, and what was no good answer."""

    seconds: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    unsent: int = 0

    def find_quantile(self, share: float) -> float:
        """Return the time that `share` of the requests took at most."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")


class Connection:
    """One connection that asks and waits; opened again when the server closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Return status and body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(_read_length(head))
        except (OSError, asyncio.IncompleteReadError):
            await self.close()
            raise
        return int(head[9:12]), body

    async def close(self) -> None:
        """Close it; the next request opens it again."""
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def _read_length(head: bytes) -> int:
    if head[9:12] in {b"204", b"304"}:
        return 0
    at = head.lower().index(b"content-length:") + 15
    return int(head[at : head.index(b"\r\n", at)])


def prepare(method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
    """Return the bytes of a request."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "host: 127.0.0.1",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    if body is not None:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


async def load_openly(
    connections: Sequence[Connection], make_request: Callable[[int], bytes], rate: float, seconds: float, good: frozenset[int]
) -> Latencies:
    """Send `rate` requests a second whatever the answers do; the wait for a free connection counts."""
    found, loop = Latencies(), asyncio.get_running_loop()
    due: asyncio.Queue[tuple[int, float] | None] = asyncio.Queue()

    async def serve(connection: Connection) -> None:
        while (entry := await due.get()) is not None:
            number, when = entry
            await _ask_once(connection, make_request(number), when, found, good)

    servers = [loop.create_task(serve(connection)) for connection in connections]
    began, total = time.perf_counter(), round(rate * seconds)
    for number in range(total):
        when = began + number / rate
        if (left := when - time.perf_counter()) > 0:
            await asyncio.sleep(left)
        due.put_nowait((number, when))
    for _ in servers:
        due.put_nowait(None)
    await asyncio.gather(*servers)
    return found


async def _ask_once(connection: Connection, request: bytes, when: float, found: Latencies, good: frozenset[int]) -> None:
    try:
        status, body = await connection.ask(request)
    except (OSError, asyncio.IncompleteReadError) as error:
        found.faults.append(f"{type(error).__name__}: {error}")
        return
    found.seconds.append(time.perf_counter() - when)
    if status not in good:
        found.faults.append(f"{status} {body[:200]!r}")


async def load_closed(clients: Sequence[Callable[[], Awaitable[None]]]) -> list[BaseException]:
    """Run all at once; return what went wrong."""
    results = await asyncio.gather(*(client() for client in clients), return_exceptions=True)
    return [result for result in results if isinstance(result, BaseException)]
