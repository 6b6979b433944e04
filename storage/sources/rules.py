"""Which places of files this deployment fetches from: the operator's settings, the same for the service and the workers."""

import re
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import PurePosixPath
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from schemas.errors import Fault
from schemas.references import LABEL, Place, read_place, show_place
from storage.artifacts import PLAIN_OWNER
from storage.sources.addresses import Network, is_allowed, read_networks

TENANT: Final = "{tenant}"
NONE: Final = "none"
ANY: Final = "any"
ASK: Final = "ask the operator, or upload the file with PUT /v1/artifacts/{sha256} and name it artifact:sha256:..."


def _split(text: str) -> tuple[str, ...]:
    return () if text in {NONE, ANY} else tuple(text.replace(",", " ").split())


def _check_roots(text: str) -> str:
    for root in _split(text):
        path = PurePosixPath(root)
        if not path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
            message = f"{root} is no absolute folder below /"
            raise ValueError(message)
    return text


def _check_prefixes(text: str) -> str:
    for prefix in _split(text):
        if not re.fullmatch(r"s3://[a-z0-9.-]+/(.*/)?", prefix):
            message = f"{prefix} does not read s3://bucket/ or s3://bucket/prefix/, a slash at the end"
            raise ValueError(message)
    return text


def check_hosts(text: str) -> str:
    """Return a list of hosts and patterns of hosts as it is; ValueError when one is none."""
    for host in _split(text):
        if not all(LABEL.fullmatch(label) for label in host.removeprefix("*.").split(".")):
            message = f"{host} is no host name and no pattern such as *.example.org"
            raise ValueError(message)
    return text


def _check_ports(text: str) -> str:
    for port in _split(text):
        if not port.isdecimal() or not 1 <= int(port) <= 65535:
            message = f"{port} is no port"
            raise ValueError(message)
    return text


def _check_networks(text: str) -> str:
    read_networks("" if text == NONE else text)
    return text


class SourceRules(BaseModel):
    """The part of both processes' settings that says what may be fetched; lists are separated by spaces or commas."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    fetch_roots: Annotated[str, AfterValidator(_check_roots)] = NONE
    """Folders of the workers below which `file:` may read; `{tenant}` in one stands for the caller's tenant."""

    fetch_s3: Annotated[str, AfterValidator(_check_prefixes)] = NONE
    """Prefixes such as `s3://bucket/models/` that `s3:` may read; `{tenant}` in one stands for the caller's tenant."""

    fetch_https: Literal["on", "pinned", "off"] = "on"
    """`pinned`: `https:` needs a sha256 beside it; `off`: it is refused."""

    fetch_http: bool = False
    """Whether `http:`, which anybody on the way can change, is fetched too; port 80 is allowed then."""

    fetch_hosts: Annotated[str, AfterValidator(check_hosts)] = ANY
    """The hosts that are fetched from, such as `models.example.org *.example.com`."""

    fetch_ports: Annotated[str, AfterValidator(_check_ports)] = "443"
    """The ports that are dialled."""

    fetch_private_networks: Annotated[str, AfterValidator(_check_networks)] = NONE
    """Networks such as `10.1.0.0/16` that are dialled though they are not public: callers can make workers reach into them."""

    @property
    def permitted_networks(self) -> tuple[Network, ...]:
        """The networks that are dialled though they are not public."""
        return read_networks(" ".join(_split(self.fetch_private_networks)))

    def list_roots(self, owner: str) -> tuple[str, ...]:
        """Return the folders that the owner's `file:` references may lie in."""
        return _fill_in(_split(self.fetch_roots), owner)

    def list_prefixes(self, owner: str) -> tuple[str, ...]:
        """Return the prefixes that the owner's `s3:` references may begin with."""
        return _fill_in(_split(self.fetch_s3), owner)

    def find_fault(self, uri: str, owner: str, *, pinned: bool) -> Fault | None:
        """Return why this deployment does not fetch `uri` for `owner`, as far as that is known without looking there."""
        try:
            place = read_place(uri)
        except ValueError as error:
            return Fault(str(error), got=show_place(uri), advice="correct the URI; docs/contract.md describes it")
        if place.scheme == "file":
            return self._find_file_fault(place, uri, owner)
        if place.scheme == "s3":
            return self._find_s3_fault(place, uri, owner)
        return None if place.scheme == "artifact" else self._find_url_fault(place, uri, pinned=pinned)

    def _find_file_fault(self, place: Place, uri: str, owner: str) -> Fault | None:
        roots = self.list_roots(owner)
        if any(place.path.startswith(f"{root.rstrip('/')}/") for root in roots):
            return None
        what = "the file is in no folder that may be read" if roots else "file: references are not enabled here"
        return Fault(what, expected="a file below a folder of FAULTLINE_FETCH_ROOTS", got=uri, advice=ASK)

    def _find_s3_fault(self, place: Place, uri: str, owner: str) -> Fault | None:
        prefixes = self.list_prefixes(owner)
        if any(f"s3://{place.name}/{place.path}".startswith(prefix) for prefix in prefixes):
            return None
        what = "the object is under no prefix that may be read" if prefixes else "s3: references are not enabled here"
        return Fault(what, expected="an object under a prefix of FAULTLINE_FETCH_S3", got=uri, advice=ASK)

    def _find_url_fault(self, place: Place, uri: str, *, pinned: bool) -> Fault | None:
        got = show_place(uri)
        if place.scheme == "http" and not self.fetch_http:
            return Fault("http: is not fetched, for anybody on the way could change the file", "", "an https: URL", got, ASK)
        if self.fetch_https == "off":
            return Fault("files are not fetched from the web here", "", "an artifact", got, ASK)
        if self.fetch_https == "pinned" and not pinned:
            advice = "add sha256 beside uri: the digest that the file must have"
            return Fault("a file from the web needs its digest here", "", "a sha256 beside uri", got, advice)
        return self.find_host_fault(place, uri)

    def find_host_fault(self, place: Place, uri: str) -> Fault | None:
        """Return why this deployment does not dial the host and port of a URL, as far as its spelling tells."""
        got, ports = show_place(uri), {*_split(self.fetch_ports), *(("80",) if self.fetch_http else ())}
        if str(place.port) not in ports:
            return Fault(f"port {place.port} is not dialled", "", f"one of the ports {', '.join(sorted(ports))}", got, ASK)
        if self.fetch_hosts != ANY and not _is_listed(place.name, _split(self.fetch_hosts)):
            return Fault("the host is not one that is fetched from", "", "a host of FAULTLINE_FETCH_HOSTS", got, ASK)
        if _is_address(place.name) and not is_allowed(ip_address(place.name), self.permitted_networks):
            return Fault("the address is not public", "", "a host on the public internet", got, ASK)
        return None


def _fill_in(patterns: Sequence[str], owner: str) -> tuple[str, ...]:
    # A tenant whose name is no plain folder name has no folder of its own.
    return tuple(one.replace(TENANT, owner) for one in patterns if TENANT not in one or PLAIN_OWNER.fullmatch(owner))


def _is_listed(host: str, patterns: Sequence[str]) -> bool:
    return any(host == one or (one.startswith("*.") and host.endswith(one[1:])) for one in patterns)


def _is_address(host: str) -> bool:
    return ":" in host or host.rpartition(".")[2].isdigit()
