"""Keeps other sites' pages out where no key is asked for: a browser on this machine reaches loopback for any of them.

A page of another site can send requests to 127.0.0.1 (and then `Origin` or `Sec-Fetch-Site` tells on it), or have its own name
resolve to 127.0.0.1 (and then `Host` is that name).
"""

import ipaddress
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from schemas.errors import Fault, Forbidden

SENT_HEADERS = (
    *("Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "Prefer", "X-Request-Id", "Traceparent"),
    *("Upload-Length", "Upload-Offset", "Repr-Digest"),
)
TOLD_HEADERS = (
    *("ETag", "Link", "Location", "Preference-Applied", "Retry-After", "X-Request-Id", "Traceparent", "Faultline-Trace-Id"),
    *("Upload-Offset", "Repr-Digest", "Content-Location"),
)
OWN_SITES = frozenset({"same-origin", "none"})
_ADVICE = "Call it by the address that it listens on; for other callers set FAULTLINE_AUTH=required and make keys."


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address means this machine, whoever resolves it.

    Returns:
        False for names that a resolver has to look up.

    >>> is_loopback("127.0.0.2"), is_loopback("::ffff:127.0.0.1"), is_loopback("localhost.evil.example"), is_loopback("0.0.0.0")
    (True, True, False, False)
    """
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return host.lower() == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def check_host(headers: Headers) -> None:
    """Check that the caller asked for this machine by name.

    Raises:
        Forbidden: when another name, or none, led here.

    """
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not is_loopback(_read_host(hosts[0])):
        got = ", ".join(hosts)[:200] or "none"
        raise Forbidden(Fault("the call is for another host", "header: Host", "127.0.0.1, [::1] or localhost", got, _ADVICE))


def check_origin(headers: Headers) -> None:
    """Check that no page of another site sent this.

    Raises:
        Forbidden: when one did.

    """
    for name in ("sec-fetch-site", "origin"):
        for value in headers.getlist(name):
            is_ours = value in OWN_SITES if name == "sec-fetch-site" else _is_same(value, headers.get("host", ""))
            if not is_ours:
                what, where = "a page of another site sent this call", f"header: {name.title()}"
                raise Forbidden(
                    Fault(what, where, "the service's own page, or no browser", value[:200] or "an empty one", _ADVICE)
                )


def describe_cors(origins: Sequence[str]) -> dict[str, Any]:
    """Return what the pages of other sites may do that the operator names; without keys `check_origin` still keeps them out."""
    return {
        "allow_origins": list(origins),
        "allow_methods": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        "allow_headers": list(SENT_HEADERS),
        "expose_headers": list(TOLD_HEADERS),
        "max_age": 600,
    }


def _read_host(value: str) -> str:
    try:
        return urlsplit(f"//{value}").hostname or ""
    except ValueError:
        return ""


def _is_same(origin: str, host: str) -> bool:
    return bool(host) and origin.lower() in {f"http://{host.lower()}", f"https://{host.lower()}"}
