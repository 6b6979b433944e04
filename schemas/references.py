"""Where the files of an audit lie: `artifact:`, `file:`, `s3:`, `https:` and `http:` URIs, read strictly and in one way only.

The service refuses with this reader what cannot mean anything, and the worker fetches what the same reader understood. What
two programs could read as two different places is refused: user names, other spellings of addresses, characters outside ASCII.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Literal, NamedTuple, Self
from urllib.parse import unquote

from pydantic import AfterValidator, Field, model_validator

from schemas.base import Input, Sha256

Scheme = Literal["artifact", "file", "s3", "https", "http"]
MAX_URI = 2048
MAX_HOST = 253
ARTIFACT = "artifact:sha256:"
DIGEST = re.compile(r"[0-9a-f]{64}")
LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
A_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
STANDARD_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True)
class Place:
    """What a URI says.

    name: the digest, host (an IPv6 address without brackets) or bucket. path: of a file; a key; path and query of a URL.
    """

    scheme: Scheme
    name: str
    path: str = ""
    port: int = 0


class NamedFile(NamedTuple):
    """A file that a request names: in which field, where it lies, and the sha-256 that it must have, if the request says."""

    part: str
    uri: str
    sha256: str | None = None


def read_place(uri: str) -> Place:
    """Return what `uri` says.

    Raises:
        ValueError: when it says nothing, or what could be understood in two ways.

    >>> read_place("https://Models.example.org:8443/a.onnx?v=2")
    Place(scheme='https', name='models.example.org', path='/a.onnx?v=2', port=8443)
    """
    scheme, _, rest = uri.partition(":")
    if scheme not in READERS:
        message = f"a URI begins with one of {', '.join(f'{known}:' for known in READERS)}"
        raise ValueError(message)
    if len(uri) > MAX_URI:
        message = f"a URI has at most {MAX_URI} characters"
        raise ValueError(message)
    if not all("!" <= character <= "~" and character not in '\\"<>^`{|}' for character in uri) or PERCENT.search(uri):
        message = "a URI holds printable ASCII characters only, without spaces; write others as %XX, and host names in punycode"
        raise ValueError(message)
    return READERS[scheme](rest)


def show_place(uri: str) -> str:
    """Return the URI for people: a query may hold a signature that opens the file, so it is left out.

    >>> show_place("https://example.org/m.onnx?signature=abc")
    'https://example.org/m.onnx?...'
    """
    shown, mark, _ = uri.partition("?")
    return f"{shown}?..." if mark else shown


def _read_artifact(rest: str) -> Place:
    kind, _, digest = rest.partition(":")
    if kind != "sha256" or not DIGEST.fullmatch(digest):
        message = "an artifact is named artifact:sha256: followed by 64 lower-case hexadecimal digits"
        raise ValueError(message)
    return Place("artifact", digest)


def _read_file(rest: str) -> Place:
    path = unquote(rest.removeprefix("//"), errors="strict")
    parts = path.split("/")[1:]
    if not path.startswith("/") or "?" in rest or "#" in rest or "\0" in path or {"", ".", ".."} & set(parts):
        message = "a file is named file:///, then its folders and name, without . and .. and without a host"
        raise ValueError(message)
    return Place("file", "", path)


def _read_s3(rest: str) -> Place:
    bucket, _, key = rest.removeprefix("//").partition("/")
    key = unquote(key, errors="strict")
    unclear = not key or "?" in rest or "#" in rest or not key.isprintable() or {"", ".", ".."} & set(key.split("/"))
    if not rest.startswith("//") or not BUCKET.fullmatch(bucket) or ".." in bucket or unclear:
        message = "an object is named s3://, then its bucket, then its key, whose parts are neither empty nor . nor .."
        raise ValueError(message)
    return Place("s3", bucket, key)


def _read_url(scheme: Scheme, rest: str) -> Place:
    found = re.fullmatch(r"//([^/?#]*)(/[^#]*|\?[^#]*)?", rest)
    if found is None:
        message = f"a URL reads {scheme}://host/path, without a fragment"
        raise ValueError(message)
    authority, path = found[1], found[2] or "/"
    if "@" in authority:
        message = "a URL holds no user name and no password; fetching sends none"
        raise ValueError(message)
    host, port = _split_port(authority)
    return Place(scheme, _check_host(host.lower()), path if path.startswith("/") else f"/{path}", port or STANDARD_PORTS[scheme])


def _split_port(authority: str) -> tuple[str, int]:
    found = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::([1-9][0-9]{0,4}))?", authority)
    if found is None or int(found[2] or 0) > 65535:
        message = "after a host comes nothing, or a colon and a port from 1 to 65535"
        raise ValueError(message)
    return found[1], int(found[2] or 0)


def _check_host(host: str) -> str:
    """Return the host: a name, or an address in the one spelling that every program reads alike."""
    if host.startswith("["):
        return _check_address_6(host[1:-1])
    labels = host.split(".")
    if A_NUMBER.fullmatch(labels[-1]):
        return _check_address_4(host)
    if len(host) > MAX_HOST or not all(LABEL.fullmatch(label) for label in labels):
        message = "a host is a name of letters, digits, dots and dashes that does not end in a dot; write others in punycode"
        raise ValueError(message)
    return host


def _check_address_4(host: str) -> str:
    message = "an IPv4 address is written as four decimal numbers from 0 to 255, without leading zeros"
    try:
        address = str(IPv4Address(host))
    except ValueError:
        raise ValueError(message) from None
    if address != host:
        raise ValueError(message)
    return host


def _check_address_6(text: str) -> str:
    try:
        address = IPv6Address(text)
    except ValueError:
        address = IPv6Address("fe80::%0")
    if address.scope_id is not None:
        message = "an IPv6 address stands in brackets and has no zone"
        raise ValueError(message)
    return str(address)


READERS: dict[Scheme, Callable[[str], Place]] = {
    "artifact": _read_artifact,
    "file": _read_file,
    "s3": _read_s3,
    "https": lambda rest: _read_url("https", rest),
    "http": lambda rest: _read_url("http", rest),
}


def _check_uri(uri: str) -> str:
    read_place(uri)
    return uri


Uri = Annotated[
    str, Field(max_length=MAX_URI, json_schema_extra={"pattern": "^(artifact|file|s3|https|http):"}), AfterValidator(_check_uri)
]


class Reference(Input):
    """A file that an audit reads. sha256: what it must have; without it, whatever lies there when it is fetched."""

    uri: Uri
    sha256: Sha256 | None = None

    @model_validator(mode="after")
    def _check_pin(self) -> Self:
        if self.sha256 is not None and self.uri.startswith(ARTIFACT) and not self.uri.endswith(self.sha256):
            message = f"sha256 pins {self.sha256}, but uri names {self.uri}; they must be the same digest"
            raise ValueError(message)
        return self

    def name_as(self, part: str) -> NamedFile:
        """Return this file as the field `part` of a request names it."""
        return NamedFile(part, self.uri, self.sha256)
