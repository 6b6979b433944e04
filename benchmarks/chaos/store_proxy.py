"""A slow and unreliable way to the store: every program's calls go through this proxy."""

import asyncio
import threading
from contextlib import suppress
from pathlib import Path

BLOCK = 1 << 16


class StoreProxy:
    """A unix socket in front of the store's own. `delay_s` holds every reply back; `cut` hangs up on everybody."""

    def __init__(self, path: Path, store: Path) -> None:
        self.redis_url = f"unix://{path}"
        self.delay_s = 0.0
        self._path, self._store = path, store
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(asyncio.start_unix_server(self._carry, str(self._path)), self._loop).result(10)

    def cut(self) -> None:
        """Hang up on every client, in the middle of whatever it asks."""
        self._loop.call_soon_threadsafe(self._hang_up)

    def stop(self) -> None:
        """Hang up and listen no more."""
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _hang_up(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            store_reader, store_writer = await asyncio.open_unix_connection(str(self._store))
            pair = {writer, store_writer}
            self._open |= pair
            try:
                await asyncio.gather(self._pump(reader, store_writer, slow=False), self._pump(store_reader, writer, slow=True))
            finally:
                self._open -= pair
                store_writer.transport.abort()
        writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, slow: bool) -> None:
        with suppress(OSError):
            while block := await source.read(BLOCK):
                if slow and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                sink.write(block)
                await sink.drain()
        sink.transport.abort()
