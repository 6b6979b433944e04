"""A proxy that cuts connections after so many bytes, as a bad line does."""

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


class CuttingProxy:
    """Forwards to `server`; each connection ends after a random number of bytes from the client, `cuts` times in all."""

    def __init__(self, server: str, cuts: int, longest: int, seed: int) -> None:
        self._target = (str(urlsplit(server).hostname), int(urlsplit(server).port or 80))
        self._chance = random.Random(seed)
        self._left = cuts
        self._longest = longest
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cut = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                limit = self._chance.randrange(self._longest) if self._left > 0 else None
                for source, sink, most in ((client, server, limit), (server, client, None)):
                    threading.Thread(target=self._pump, args=(source, sink, most), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        gone = 0
        with contextlib.suppress(OSError):
            while block := source.recv(65536):
                gone += len(block)
                if limit is not None and gone > limit and self._left > 0:
                    self._left -= 1
                    self.cut += 1
                    break
                sink.sendall(block)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def cutting(server: str, cuts: int, longest: int, seed: int = 1) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(server, cuts, longest, seed)
    try:
        yield proxy
    finally:
        proxy.close()
