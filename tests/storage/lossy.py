"""A store whose replies get lost: a proxy that carries a call to the server and hangs up instead of answering."""

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
import redis.asyncio

from storage.connection import connect, connect_async
from tests.storage.valkey import RunningValkey


class LossyStore:
    """Like the server behind it, but the reply to the next script call is lost after `lose_next_reply`."""

    def __init__(self, server: RunningValkey, path: Path) -> None:
        self.redis_url = f"unix://{path}"
        self.lost = 0
        self._server = server
        self._losing = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads: list[threading.Thread] = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def lose_next_reply(self) -> None:
        self._losing.set()

    def connect(self, retries: int = 2) -> redis.Redis:
        return connect(self.redis_url, retries)

    def connect_async(self, retries: int = 2) -> redis.asyncio.Redis:
        return connect_async(self.redis_url, retries)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(timeout=10)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._carry, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, selectors.DefaultSelector() as selector:
            server.connect(str(self._server.store.socket))
            selector.register(client, selectors.EVENT_READ)
            selector.register(server, selectors.EVENT_READ)
            call = b""
            while True:
                # A long call comes in parts, and only its last one is answered.
                for key, _ in selector.select():
                    if key.fileobj is client:
                        if not (part := client.recv(1 << 20)):
                            return
                        call += part
                        server.sendall(part)
                        continue
                    reply = server.recv(1 << 20)
                    if b"EVALSHA" in call and self._losing.is_set() and not reply.startswith(b"-NOSCRIPT"):
                        self._losing.clear()
                        self.lost += 1
                        return
                    call = b""
                    client.sendall(reply)


@contextmanager
def losing_replies(server: RunningValkey, folder: Path) -> Iterator[LossyStore]:
    store = LossyStore(server, folder / "lossy.sock")
    try:
        yield store
    finally:
        store.close()
