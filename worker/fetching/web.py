"""HTTP for URLs that strangers wrote: every hop is checked, resolved once and dialled at exactly the checked address.

Nothing of the environment takes part: no proxy, no cookie, no credential, no compression.
"""

import http.client
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

from schemas.errors import Fault, FetchFailed, FetchRefused
from schemas.references import STANDARD_PORTS, Place, read_place, show_place
from schemas.version import VERSION
from storage.sources.rules import SourceRules
from worker.fetching.dialling import Line, dial
from worker.fetching.patience import Patience, Transient
from worker.fetching.resolving import Resolver, find_addresses, resolve_by_system

MOST_REDIRECTS: Final = 5
CHUNK_BYTES: Final = 256 * 1024
LONGEST_WAIT_S: Final = 60.0
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers after which the same request may succeed later."""
HEADERS: Final = {"user-agent": f"faultline/{VERSION}", "accept": "*/*", "accept-encoding": "identity", "connection": "close"}


@dataclass(frozen=True)
class Answer:
    """An open answer: its status, and what has not been read yet."""

    response: http.client.HTTPResponse

    @property
    def status(self) -> int:
        """The status code."""
        return self.response.status

    @property
    def length(self) -> int | None:
        """How many bytes the server announced; None when it did not."""
        return self.response.length

    def read_chunks(self) -> Iterator[bytes]:
        """Yield the body as it comes.

        Raises:
            Transient: when it ends early.
        """
        announced, size = self.length, 0
        # `read` takes a chunk of size -1, which a server may well send, for all that comes until the connection ends.
        read = self.response.read1 if self.response.chunked else self.response.read
        try:
            while chunk := read(CHUNK_BYTES):
                size += len(chunk)
                yield chunk
        except (http.client.HTTPException, ValueError) as error:
            message = "the answer is cut off or garbled"
            raise Transient(message) from error
        if announced is not None and size < announced:
            message = f"the answer is cut off after {size} of {announced} bytes"
            raise Transient(message)


class Web:
    """Fetches and posts within the operator's rules. `resolve` is the system's resolver but in tests."""

    def __init__(self, rules: SourceRules, ca_file: Path | None = None, resolve: Resolver = resolve_by_system) -> None:
        self._rules = rules
        self._resolve = resolve
        self._ca_file = ca_file

    @cached_property
    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._ca_file is not None:
            context.load_verify_locations(self._ca_file)
        return context

    @contextmanager
    def get(self, uri: str, patience: Patience) -> Iterator[Answer]:
        """Follow redirects to the file.

        Yields:
            The answer with the file.

        Raises:
            FetchRefused: when a hop is not allowed.
            FetchFailed: when the server has no such file.
            Transient: when it may have it later.
        """
        for _ in range(MOST_REDIRECTS + 1):
            with self.exchange("GET", uri, patience) as answer:
                if answer.status not in REDIRECTS:
                    _check_status(answer, uri)
                    yield answer
                    return
                uri = _follow(uri, answer.response.getheader("location"))
        raise FetchRefused(Fault("the URL is redirected too often", "", f"at most {MOST_REDIRECTS} redirects", show_place(uri)))

    @contextmanager
    def exchange(
        self, method: str, uri: str, patience: Patience, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Iterator[Answer]:
        """Send one request; no redirect is followed.

        Yields:
            The answer, whatever its status.

        Raises:
            FetchRefused: when the place is not allowed.
            Transient: when there is no answer.
        """
        with self.exchange_at(self._check(uri), method, patience, headers, body) as answer:
            yield answer

    @contextmanager
    def exchange_at(
        self, place: Place, method: str, patience: Patience, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Iterator[Answer]:
        """Do as `exchange` at a place that needs no check but that of its addresses."""
        addresses = find_addresses(place.name, self._rules.permitted_networks, patience, self._resolve)
        context = self._context if place.scheme == "https" else None
        line = dial(addresses, place.port, patience, context, place.name)
        try:
            response = _ask(line, method, place, {**HEADERS, **(headers or {})}, body)
            with response:
                yield Answer(response)
        finally:
            line.hang_up()

    def _check(self, uri: str) -> Place:
        try:
            place = read_place(uri)
        except ValueError as error:
            raise FetchRefused(Fault(str(error), got=show_place(uri))) from None
        fault = self._rules.find_host_fault(place, uri)
        if place.scheme not in STANDARD_PORTS or (place.scheme == "http" and not self._rules.fetch_http):
            fault = Fault("the place is not one on the web that may be reached", "", "https:", show_place(uri))
        if fault is not None:
            raise FetchRefused(fault)
        return place


def _ask(line: Line, method: str, place: Place, headers: Mapping[str, str], body: bytes | None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(place.name, place.port)
    connection.sock = line
    host = f"[{place.name}]" if ":" in place.name else place.name
    try:
        connection.putrequest(method, place.path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("host", host if place.port == STANDARD_PORTS[place.scheme] else f"{host}:{place.port}")
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        return connection.getresponse()
    except (http.client.HTTPException, ValueError) as error:
        message = f"the answer is no HTTP: {type(error).__name__}"
        raise Transient(message) from error


def _check_status(answer: Answer, uri: str) -> None:
    status, shown = answer.status, show_place(uri)
    if status in PASSING:
        message = f"the server answers {status}"
        raise Transient(message, _read_wait(answer.response.getheader("retry-after")))
    if status != 200:
        advice = "check that the URL opens without credentials; fetching sends none"
        raise FetchFailed(Fault(f"the server answers {status}", "", "200 and the file", shown, advice))
    encoding = answer.response.getheader("content-encoding", "identity").lower()
    if encoding != "identity":
        what = "the server compresses the file though it was asked not to"
        raise FetchFailed(Fault(what, "", "the file's own bytes", f"content-encoding: {encoding[:40]}"))


def _read_wait(retry_after: str | None) -> float:
    return min(float(retry_after), LONGEST_WAIT_S) if retry_after is not None and retry_after.isdecimal() else 0.0


def _follow(uri: str, location: str | None) -> str:
    try:
        target = urljoin(uri, location or "").partition("#")[0]
    except ValueError:
        target = ""
    if not location or not target:
        raise FetchRefused(Fault("the redirect leads nowhere", "", "a URL in Location", show_place(uri)))
    if uri.startswith("https:") and not target.startswith("https:"):
        raise FetchRefused(Fault("the redirect leaves https:", "", "an https: URL", show_place(target)[:200]))
    return target
