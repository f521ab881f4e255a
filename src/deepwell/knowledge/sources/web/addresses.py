"""Kinds of IP addresses, by what an address of a source may lead to (IANA special-purpose registries; RFC 6890)."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal

__all__ = ["Address", "AllowList", "Network", "reach"]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Reach = Literal["public", "private", "never"]

# A company may have services there. 198.18.0.0/15 is for benchmarks; proxies hand it out in place of real addresses.
_PRIVATE_4 = tuple(
    map(
        IPv4Network, "10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 172.16.0.0/12 192.168.0.0/16 198.18.0.0/15".split()
    )
)
# Nobody's documents: this network, link-local (metadata of clouds), protocol assignments, examples, multicast, reserved;
# then metadata of Azure, Alibaba and Oracle, which lie in other ranges.
_NEVER_4 = tuple(
    map(
        IPv4Network,
        "0.0.0.0/8 169.254.0.0/16 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 198.51.100.0/24 203.0.113.0/24"
        " 224.0.0.0/4 240.0.0.0/4 168.63.129.16/32 100.100.100.200/32".split(),
    )
)
_PRIVATE_6 = (IPv6Network("::1/128"), IPv6Network("fc00::/7"))
_METADATA_6 = IPv6Address("fd00:ec2::254")  # of AWS
_GLOBAL_6 = IPv6Network("2000::/3")
# Within it: protocol assignments with Teredo, examples, 6to4. Tunnels would lead to an address that nobody checked.
_NEVER_6 = tuple(map(IPv6Network, "2001::/23 2001:db8::/32 2002::/16 3fff::/20".split()))
_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/96"))


def reach(address: Address) -> Reach:
    """Returns `public`; `private` for addresses that an allow-list may open; `never` for those that no list opens.

    An IPv6 address that carries an IPv4 one (mapped, NAT64) is as that one.
    """
    if isinstance(address, IPv4Address):
        if any(address in network for network in _NEVER_4):
            return "never"
        return "private" if any(address in network for network in _PRIVATE_4) else "public"
    inner = embedded(address)
    if inner is not None:
        return reach(inner)
    if address.scope_id is not None or address == _METADATA_6:
        return "never"
    if any(address in network for network in _PRIVATE_6):
        return "private"
    if address not in _GLOBAL_6 or any(address in network for network in _NEVER_6):
        return "never"
    return "public"


def embedded(address: Address) -> IPv4Address | None:
    """Returns the IPv4 address that an IPv6 address stands for; None if it stands for none."""
    if isinstance(address, IPv6Address) and any(address in network for network in (_MAPPED, *_NAT64)):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


class AllowList:
    """Private hosts that sources may reach.

    Args:
        entries: host names, `*.` in front for subdomains; addresses; networks in CIDR notation.

    Raises:
        ValueError: an entry is none of these.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self._names: set[str] = set()
        self._suffixes: list[str] = []
        self._networks: list[Network] = []
        for entry in entries:
            entry = entry.strip().lower().rstrip(".")
            try:
                self._networks.append(ip_network(entry, strict=False))
                continue
            except ValueError:
                pass
            name = entry.removeprefix("*.")
            if not name or any(mark in name for mark in "/:*@ "):
                raise ValueError(
                    f"{entry!r} is neither a host such as wiki.internal, nor an address, nor a network such as 10.1.0.0/16"
                )
            if entry.startswith("*."):
                self._suffixes.append(f".{name}")
            else:
                self._names.add(name)

    def opens(self, host: str, address: Address) -> bool:
        """Returns True if a private address may be reached under the name of a host."""
        host = host.lower().rstrip(".")
        if host in self._names or any(host.endswith(suffix) for suffix in self._suffixes):
            return True
        both = [address, inner] if (inner := embedded(address)) else [address]
        return any(one in network for one in both for network in self._networks)


def parse_address(host: str) -> Address | None:
    """Returns the address that a host of a URL is, brackets or not; None if it is a name."""
    try:
        return ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
