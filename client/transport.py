"""HTTP with patience: calls that may be repeated are, with growing pauses, until the server answers."""

import ipaddress
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import httpx2
from pydantic import ValidationError

from client.credentials import check_key
from client.errors import BadUsage, Refused, Unreachable
from schemas.errors import Fault
from schemas.problem import Problem
from schemas.version import VERSION

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
CONNECT_S = 10.0
ANSWER_S = 60.0
REPEATABLE = frozenset({429, 502, 503, 504})
"""Answers after which the same call may succeed later."""

UNDONE = frozenset({429, 503})
"""Those after which nothing was done, for sure."""


class FilePart(NamedTuple):
    """The bytes of a file from `offset` on, as a body; `on_block` hears how many bytes have gone, block by block."""

    path: Path
    offset: int
    on_block: Callable[[int], object]


Body = bytes | Path | FilePart | None


class Transport:
    """Sends calls to one server. A body given as a path is streamed from the file at every attempt."""

    def __init__(self, server: str, key: str | None = None, patience_s: float = 30.0) -> None:
        self.server = check_server(server)
        headers = {"user-agent": f"faultline/{VERSION}", "accept": "application/json"}
        if key:
            key = check_key(key, "the key")
            headers["authorization"] = f"Bearer {key}"
        self.patience_s = patience_s
        timeout = httpx2.Timeout(ANSWER_S, connect=CONNECT_S)
        # A proxy of the environment is not for a server on this machine.
        self._http = httpx2.Client(headers=headers, timeout=timeout, trust_env=not is_local(self.server))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        answer_s: float = ANSWER_S,
        once: bool = False,
    ) -> httpx2.Response:
        """Return the server's answer, whatever its status; unless `once`, the call must be one that may be repeated.

        Raises:
            Unreachable: when no attempt brought an answer in time.

        """
        give_up = time.monotonic() + self.patience_s
        pauses = grow_pauses()
        while True:
            pause_s = next(pauses)
            try:
                response = self._send(method, path, headers, body, answer_s)
            except httpx2.TransportError as error:
                has_arrived = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)  # perhaps
                if (once and has_arrived) or time.monotonic() + pause_s > give_up:
                    raise Unreachable(self._describe_silence(error)) from error
            else:
                pause_s = max(pause_s, _read_retry_after(response))
                if response.status_code not in (UNDONE if once else REPEATABLE) or time.monotonic() + pause_s > give_up:
                    return response
            time.sleep(pause_s)

    def _send(self, method: str, path: str, headers: Mapping[str, str] | None, body: Body, answer_s: float) -> httpx2.Response:
        timeout = httpx2.Timeout(answer_s, connect=CONNECT_S)
        with _open_body(body) as content:
            return self._http.request(method, self.server + path, headers=headers, content=content, timeout=timeout)

    def try_once(self, method: str, path: str, headers: Mapping[str, str], body: Body, answer_s: float) -> httpx2.Response | None:
        """Return the server's answer, whatever its status, to a call that may not simply be repeated; None when it broke off."""
        try:
            return self._send(method, path, headers, body, answer_s)
        except httpx2.TransportError:
            return None

    def stream(self, path: str, write: Callable[[bytes], object]) -> None:
        """Give the content at `path` to `write` as it arrives; not repeated, for the writer has taken a part.

        Raises:
            Refused: when the server does.
            Unreachable: when the connection breaks.

        """
        try:
            with self._http.stream("GET", self.server + path) as response:
                if response.status_code >= 400:
                    response.read()
                    refusal = read_refusal(response)
                    raise refusal
                for chunk in response.iter_bytes():
                    write(chunk)
        except httpx2.TransportError as error:
            raise Unreachable(self._describe_silence(error)) from error

    def _describe_silence(self, error: httpx2.TransportError) -> Fault:
        got = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return Fault(
            what=f"{self.server} does not answer",
            where="--server or FAULTLINE_URL",
            expected="an answer from a Faultline server",
            got=got,
            advice="Check the address, or start one with: faultline up",
        )


def check_server(server: str) -> str:
    """Return the server's base address without a slash at its end.

    Raises:
        BadUsage: when it is no http or https address.

    """
    try:
        address = httpx2.URL(server)
    except httpx2.InvalidURL:
        address = httpx2.URL("")
    if address.scheme not in {"http", "https"} or not address.host or address.userinfo:
        expected = "http://host:port or https://host"
        advice = "Write the address with its scheme; a key goes into FAULTLINE_KEY."
        raise BadUsage(Fault("the server's address cannot be used", "--server or FAULTLINE_URL", expected, server, advice))
    return str(address.copy_with(query=None, fragment=None)).rstrip("/")


def is_local(server: str) -> bool:
    """Tell whether the server is on this machine."""
    host = httpx2.URL(server).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_refusal(response: httpx2.Response) -> Refused:
    """Return the refusal that a response carries, also when a proxy and not Faultline wrote it."""
    try:
        return Refused(Problem.model_validate_json(response.content))
    except ValidationError:
        title = f"HTTP {response.status_code} {response.reason_phrase}".strip()
        detail = f"{response.request.method} {response.request.url} was answered with {title}"
        return Refused(
            Problem(type="about:blank", title=title, status=response.status_code, code="http", detail=detail, errors=())
        )


def grow_pauses() -> Iterator[float]:
    """Yield pauses that double, spread by chance so that many callers do not come back at once."""
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, protects nothing
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _read_retry_after(response: httpx2.Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdigit() and response.status_code in REPEATABLE else 0.0


@contextmanager
def _open_body(body: Body) -> Iterator[bytes | Iterator[bytes] | None]:
    if body is None or isinstance(body, bytes):
        yield body
        return
    part = FilePart(body, 0, _ignore) if isinstance(body, Path) else body
    with part.path.open("rb") as file:
        file.seek(part.offset)
        yield _read_blocks(file, part.on_block)


def _read_blocks(file: BinaryIO, on_block: Callable[[int], object]) -> Iterator[bytes]:
    while block := file.read(2**20):
        yield block
        on_block(len(block))


def _ignore(_: int) -> None:
    pass
