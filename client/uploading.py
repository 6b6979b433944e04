"""Sends a large file in an upload that goes on where it broke off, for as long as that leads anywhere."""

import base64
import time
from collections.abc import Callable
from pathlib import Path

import httpx2

from client.errors import BadAnswer
from client.transport import REPEATABLE, FilePart, Transport, grow_pauses, read_refusal
from schemas.errors import Fault

UPLOADS = "/v1/uploads"
RESUMABLE_BYTES = 8 * 2**20
"""Smaller files are sent in one request, and again when it breaks."""
SLOWEST_HASH_BYTES_S = 100e6
ANSWER_S = 60.0

OnProgress = Callable[[int, int], object]
"""Takes the bytes that were sent and those of the file."""


def send_file(transport: Transport, path: Path, sha256: str, on_progress: OnProgress) -> None:
    """Bring a file to the server, unless it holds it already."""
    size_bytes = path.stat().st_size
    digest = base64.b64encode(bytes.fromhex(sha256)).decode()
    headers = {"upload-length": str(size_bytes), "repr-digest": f"sha-256=:{digest}:"}
    begun = transport.call("POST", UPLOADS, headers=headers)
    if begun.status_code >= 400:
        raise read_refusal(begun)
    if begun.status_code == httpx2.codes.CREATED:
        _Sending(transport, begun.headers["location"], path, size_bytes, on_progress).run()


class _Sending:
    """One upload on its way."""

    def __init__(self, transport: Transport, url: str, path: Path, size_bytes: int, on_progress: OnProgress) -> None:
        self._transport = transport
        self._url = url
        self._path = path
        self._size_bytes = size_bytes
        self._on_progress = on_progress

    def run(self) -> None:
        """Send until all is there; every break costs a question, and a pause when nothing had come through."""
        offset, furthest, pauses = 0, -1, grow_pauses()
        given_up_at = time.monotonic() + self._transport.patience_s
        while True:
            response = self._append(offset)
            if response is not None and response.status_code in {httpx2.codes.OK, httpx2.codes.CREATED}:
                return
            found = self._ask(response)
            if found is None:
                return
            offset = found
            if offset > furthest:
                furthest, pauses = offset, grow_pauses()
                given_up_at = time.monotonic() + self._transport.patience_s
            elif time.monotonic() > given_up_at:
                raise BadAnswer(_describe_standstill(self._path, offset, self._size_bytes))
            else:
                time.sleep(next(pauses))

    def _append(self, offset: int) -> httpx2.Response | None:
        sent = offset

        def count(block_bytes: int) -> None:
            nonlocal sent
            sent += block_bytes
            self._on_progress(sent, self._size_bytes)

        headers = {
            "content-type": "application/partial-upload",
            "content-length": str(self._size_bytes - offset),
            "upload-offset": str(offset),
        }
        # The last answer comes when the server has hashed the file.
        answer_s = ANSWER_S + self._size_bytes / SLOWEST_HASH_BYTES_S
        return self._transport.try_once("PATCH", self._url, headers, FilePart(self._path, offset, count), answer_s)

    def _ask(self, response: httpx2.Response | None) -> int | None:
        """Return where to go on after an answer, or after none; None when the server has all of the file."""
        status = None if response is None else response.status_code
        if response is not None and status != httpx2.codes.CONFLICT and status not in REPEATABLE and response.status_code >= 400:
            raise read_refusal(response)
        told = self._transport.call("HEAD", self._url)
        if told.status_code >= 400:
            raise read_refusal(told)
        return None if told.headers.get("upload-complete") == "?1" else int(told.headers["upload-offset"])


def _describe_standstill(path: Path, offset: int, size_bytes: int) -> Fault:
    got = f"{offset} of {size_bytes} bytes, and no more"
    return Fault(f"{path} does not get through", str(path), "all of its bytes on the server", got, "Try again later.")
