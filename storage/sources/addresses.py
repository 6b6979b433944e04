"""Which addresses may be dialled for a URL that a stranger wrote: public ones, and those in networks that the operator names."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Lists of our own: what `ipaddress` calls global differs between versions of Python, and it counts multicast among it.
NOT_PUBLIC_4: Final = tuple(
    IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
        *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "168.63.129.16/32",  # a public address by which a cloud answers its own machines
    )
)
PUBLIC_6: Final = IPv6Network("2000::/3")
# Protocol assignments with Teredo, documentation, 6to4, documentation: the tunnels lead to whatever IPv4 address they hold.
NOT_PUBLIC_6: Final = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
TRANSLATED: Final = IPv6Network("64:ff9b::/96")
"""NAT64: on networks without IPv4, public hosts are reached by addresses in here, the last 32 bits being the IPv4 address."""


def unfold(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, or the address itself.

    >>> unfold(IPv6Address("::ffff:127.0.0.1")), unfold(IPv6Address("64:ff9b::7f00:1"))
    (IPv4Address('127.0.0.1'), IPv4Address('127.0.0.1'))
    """
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in TRANSLATED:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Tell whether everybody on the internet means the same machine by this address.

    Returns:
        False for everything that is private, local, reserved, for documentation, multicast, or a tunnel to such.

    >>> is_public(IPv4Address("9.9.9.9")), is_public(IPv4Address("10.0.0.1")), is_public(IPv6Address("2002:7f00:1::"))
    (True, False, False)
    """
    found = unfold(address)
    if isinstance(found, IPv4Address):
        return not any(found in network for network in NOT_PUBLIC_4)
    return found.scope_id is None and found in PUBLIC_6 and not any(found in network for network in NOT_PUBLIC_6)


def is_allowed(address: Address, permitted: Sequence[Network]) -> bool:
    """Tell whether the address is public or in a network that the operator permits."""
    return is_public(address) or any(unfold(address) in network for network in permitted)


def read_networks(text: str) -> tuple[Network, ...]:
    """Return the networks of a list such as `10.1.0.0/16 fd00::/8`; ValueError when one is none."""
    return tuple(ip_network(part) for part in text.replace(",", " ").split())
