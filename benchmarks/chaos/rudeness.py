"""Clients that hang up: half a request, half an upload, a long poll that nobody waits for."""

import random
import socket
import struct
from contextlib import suppress

TARGET = "/v1/artifacts/" + "ab" * 32


def be_rude(port: int, chance: random.Random) -> None:
    """Open several connections, break off each at another point, and reset half of them."""
    for message in build_messages(chance):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(message[: chance.randint(1, len(message))] if chance.random() < 0.5 else message)
            if chance.random() < 0.5:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def build_messages(chance: random.Random) -> list[bytes]:
    """Return requests that are not what they say, or whose sender will not read the answer."""
    body = chance.randbytes(1 << 16)
    host = b"Host: 127.0.0.1\r\n"
    return [
        b"PUT %s HTTP/1.1\r\n%sContent-Length: 100000000\r\n\r\n%s" % (TARGET.encode(), host, body),
        b"PUT %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\nffff\r\n%s" % (TARGET.encode(), host, body[:1000]),
        b"POST /v1/audits HTTP/1.1\r\n%sContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{" % host,
        b"GET /v1/audits HTTP/1.1\r\n%s\r\n" % host,
        b"GET /v1/audits/none HTTP/1.1\r\n%sPrefer: wait=30\r\n\r\n" % host,
        b"\x16\x03\x01\x02\x00\x01" + body[:500],
        b"GET / HTTP/9.9\r\n\r\n",
    ]
