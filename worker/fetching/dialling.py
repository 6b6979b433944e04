"""A connection to exactly the address that was checked, every wait on it short enough to be interrupted."""

import contextlib
import errno
import io
import os
import selectors
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from schemas.errors import Fault, FetchFailed
from storage.sources.addresses import Address
from worker.fetching.patience import Patience, Transient

MOST_DIALLED: Final = 4
BUFFER_BYTES: Final = 256 * 1024


class Line:
    """A TCP or TLS connection in the shape that `http.client` takes for a socket."""

    def __init__(self, connection: socket.socket, patience: Patience) -> None:
        self._connection = connection
        self._patience = patience

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return a reader of what comes in."""
        return io.BufferedReader(_Incoming(self), BUFFER_BYTES)

    def receive(self, buffer: memoryview) -> int:
        """Read what is there, waiting for the first byte."""
        return self._guard(lambda: self._connection.recv_into(buffer), "waiting for the answer")

    def sendall(self, data: bytes) -> None:
        """Send everything."""
        view, sent = memoryview(data), 0
        while sent < len(view):
            sent += self._guard(partial(self._send, view[sent:]), "sending the request")

    def close(self) -> None:
        """Do nothing: `http.client` closes its socket before the answer is read; who dialled hangs up."""

    def hang_up(self) -> None:
        """Close the connection; nothing is waited for."""
        self._connection.close()

    def _send(self, data: memoryview) -> int:
        try:
            return self._connection.send(data)
        except BlockingIOError:
            raise ssl.SSLWantWriteError from None

    def _guard(self, call: Callable[[], int], doing: str) -> int:
        try:
            return self._patience.run(self._connection, call, doing)
        except OSError as error:
            message = f"the connection broke: {_describe(error)}"
            raise Transient(message) from error


class _Incoming(io.RawIOBase):
    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._line.receive(memoryview(buffer))


def dial(addresses: Sequence[Address], port: int, patience: Patience, context: ssl.SSLContext | None, host: str) -> Line:
    """Return a connection to the first address that answers; with a context its certificate must be the host's.

    Raises:
        FetchFailed: when the certificate is not.
        Transient: when nobody answers.
    """
    failed: Transient | None = None
    for address in addresses[:MOST_DIALLED]:
        connection = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
        connection.setblocking(False)  # noqa: FBT003 - the name says it
        try:
            _connect(connection, address, port, patience)
            return Line(connection if context is None else _secure(connection, context, host, patience), patience)
        except Transient as error:
            connection.close()
            failed = error
        except BaseException:
            connection.close()
            raise
    raise failed or Transient("no address")


def _connect(connection: socket.socket, address: Address, port: int, patience: Patience) -> None:
    code = connection.connect_ex((str(address), port))
    if code in {errno.EINPROGRESS, errno.EWOULDBLOCK}:
        patience.wait_for(connection, selectors.EVENT_WRITE, "connecting")
        code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        message = f"no connection: {os.strerror(code)}"
        raise Transient(message)


def _secure(connection: socket.socket, context: ssl.SSLContext, host: str, patience: Patience) -> ssl.SSLSocket:
    # A ragged end is an error: without a length it is all that tells a whole answer from a cut one.
    secured = context.wrap_socket(connection, server_hostname=host, do_handshake_on_connect=False, suppress_ragged_eofs=False)
    try:
        patience.run(secured, secured.do_handshake, "agreeing on encryption")
    except ssl.SSLCertVerificationError as error:
        secured.close()
        advice = "the server needs a certificate for this host that the workers trust; FAULTLINE_FETCH_CA_FILE adds authorities"
        raise FetchFailed(
            Fault("the server's certificate is not good", "", f"a certificate for {host}", error.verify_message, advice)
        ) from None
    except OSError as error:
        secured.close()
        message = f"no encrypted connection: {_describe(error)}"
        raise Transient(message) from error
    except BaseException:
        with contextlib.suppress(OSError):
            secured.close()
        raise
    return secured


def _describe(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__
