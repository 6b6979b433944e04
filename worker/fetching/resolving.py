"""From a host to the addresses that may be dialled: resolved once, and every address must be allowed."""

import logging
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Final

from schemas.errors import Fault, FetchFailed, FetchRefused
from storage.sources.addresses import Address, Network, is_allowed, unfold
from worker.fetching.patience import Patience, Transient

log = logging.getLogger(__name__)

MOST_ADDRESSES: Final = 64
Resolver = Callable[[str], list[str]]
"""Returns the addresses of a host as text; raises socket.gaierror."""


def resolve_by_system(host: str) -> list[str]:
    """Return the host's addresses, in the order in which the system would try them."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def find_addresses(host: str, permitted: Sequence[Network], patience: Patience, resolve: Resolver) -> list[Address]:
    """Return the addresses of a host, all of them allowed: mixed answers are how a check is led astray.

    Raises:
        FetchRefused: when one of them is not.
        FetchFailed: when there is no such host.
        Transient: when nobody could say.
    """
    try:
        texts = [host] if _is_address(host) else _resolve_patiently(host, patience, resolve)
        found = [ip_address(text) for text in texts[:MOST_ADDRESSES]]
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            message = f"the name {host} could not be resolved"
            raise Transient(message) from None
        raise FetchFailed(Fault("there is no such host", got=host, advice="correct the host name")) from None
    except (ValueError, UnicodeError):
        found = []
    if not found:
        raise FetchFailed(Fault("the host has no address", got=host, advice="correct the host name"))
    if not all(is_allowed(address, permitted) for address in found):
        # The addresses themselves are for the operator: to others they would tell what lies inside the network.
        log.warning("refused to dial %s: %s", host, ", ".join(map(str, found)))
        advice = "use a host on the public internet, or ask the operator"
        raise FetchRefused(Fault("the host has an address that is not public", "", "public addresses only", host, advice))
    return [unfold(address) if _is_mapped(address) else address for address in found]


def _resolve_patiently(host: str, patience: Patience, resolve: Resolver) -> list[str]:
    """Resolve on a thread of its own: the system's resolver cannot be interrupted."""
    answers: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(resolve(host))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    came: list[list[str] | Exception] = []

    def has_come(seconds: float) -> bool:
        try:
            came.append(answers.get(timeout=seconds))
        except queue.Empty:
            return False
        return True

    patience.wait_until(has_come, f"resolving {host}")
    if isinstance(came[0], Exception):
        raise came[0]
    return came[0]


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_mapped(address: Address) -> bool:
    return address.version == 6 and address.ipv4_mapped is not None
