"""Real web servers on loopback with certificates of their own authority, and names that only these tests resolve."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

from worker.fetching.limits import FetchLimits

PUBLIC = "models.test"
SITE_ADDRESS = "127.0.0.2"
"""Where the sites are that the rules of a test permit; whatever listens on 127.0.0.1 is inside."""


@dataclass(frozen=True)
class Page:
    """What a site answers. `write` sends the body itself, however badly."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    write: Callable[[BaseHTTPRequestHandler], None] | None = None


class Site:
    """A running server: its pages may be changed, its requests are kept."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections = 0
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.pages: dict[str, Page | list[Page]] = {}

    def forget(self) -> None:
        """Be as new."""
        self.connections = 0
        self.requests.clear()
        self.pages.clear()

    def url(self, path: str = "/model.onnx", host: str = PUBLIC, scheme: str = "https") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def find(self, path: str) -> Page:
        page = self.pages.get(path.partition("?")[0], Page(status=404))
        if isinstance(page, Page):
            return page
        return page.pop(0) if len(page) > 1 else page[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        length = int(self.headers.get("content-length", "0"))
        kept = {name.lower(): value for name, value in self.headers.items()}
        self.site.requests.append((self.command, self.path, kept, self.rfile.read(length)))
        page = self.site.find(self.path)
        self.send_response(page.status)
        for name, value in page.headers.items():
            self.send_header(name, value)
        if page.write is None and "content-length" not in page.headers:
            self.send_header("content-length", str(len(page.body)))
        self.end_headers()
        if page.write is not None:
            page.write(self)
        else:
            self.wfile.write(page.body)
        self.close_connection = True

    do_POST = do_GET  # noqa: N815 - the name is the library's

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    context: ssl.SSLContext | None = None
    site: Site

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.site.connections += 1
        if self.context is None:
            super().finish_request(request, client_address)
            return
        with self.context.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, *_: Any) -> None:
        """Clients of these tests hang up in the middle."""


@contextmanager
def running_site(
    authority: trustme.CA | None,
    address: str = SITE_ADDRESS,
    port: int = 0,
    names: tuple[str, ...] = (PUBLIC, SITE_ADDRESS),
    expires: datetime | None = None,
) -> Iterator[Site]:
    """Serve until the block ends; with an authority by TLS."""
    handler = type("Handler", (_Handler,), {})
    with _Server((address, port), handler) as server:
        server.site = handler.site = Site(server.server_port)  # type: ignore[attr-defined]
        if authority is not None:
            server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(*names, not_after=expires).configure_cert(server.context)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.site
        finally:
            server.shutdown()
            thread.join()


class Names:
    """A resolver with its own table; what a name answers may differ from one question to the next. Aliases are followed."""

    def __init__(self, table: Mapping[str, str | list[str]]) -> None:
        self.table: dict[str, str | list[str]] = dict(table)
        self.asked: list[str] = []

    def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        found = self.table.get(host)
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return self(found) if isinstance(found, str) else found


def make_limits(*sites: Site, ca_file: Path | None = None, **changes: Any) -> FetchLimits:
    """Return rules that permit the address of the sites, and nothing else that is not public."""
    given: dict[str, Any] = {
        "fetch_private_networks": f"{SITE_ADDRESS}/32",
        "fetch_ports": " ".join(str(site.port) for site in sites) or "443",
        "fetch_ca_file": ca_file,
        "fetch_timeout_s": 10.0,
        "fetch_silence_s": 2.0,
        "fetch_tries": 2,
        "fetch_free_bytes": 0,
    }
    return FetchLimits(**{**given, **changes})
