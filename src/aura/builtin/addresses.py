"""Which addresses ``http.request`` may connect to: not Aura itself, nor where clouds keep the metadata of a machine.

A name is resolved once, each address that it has is looked at, and the connection is made to what was looked at: a name
that means something else a moment later leads nowhere new. Private addresses are allowed; laboratories and homes are
made of them. It is the address that counts, however it is written: ``localhost``, ``127.1``, ``2130706433`` and
``[::ffff:127.0.0.1]`` are the same.

It owns the rules and the look-up of names, and connects to nothing.
"""

import ipaddress
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from ipaddress import IPv4Address, IPv6Address

import anyio

from aura.errors import AddressRefused

#: From a host and a port to the addresses of the host. Raises OSError.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

#: Where clouds keep credentials, apart from link-local addresses: AWS and Google on IPv6, Alibaba, Oracle, Azure.
METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "168.63.129.16")
)
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
_BROADCAST = IPv4Address("255.255.255.255")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE = ipaddress.ip_network("::/96")

#: The ports at which servers of this process listen, each as often as there are listeners.
_own_ports: Counter[int] = Counter()


@contextmanager
def listening(sockets: Iterable[socket.socket]) -> Iterator[None]:
    """Say that Aura itself answers at these sockets."""
    ports = [bound.getsockname()[1] for bound in sockets if bound.family in (socket.AF_INET, socket.AF_INET6)]
    _own_ports.update(ports)
    try:
        yield
    finally:
        _own_ports.subtract(ports)


async def system_resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system for the addresses of a host, in the order in which they should be tried."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


#: How names are resolved; tests put another in its place.
RESOLVE: ContextVar[Resolve] = ContextVar("aura.resolve", default=system_resolve)


async def addresses_of(host: str, port: int) -> Sequence[str]:
    """Give the addresses at which a host may be connected to.

    Raises:
        AddressRefused: one of them is none that may be used.
        ConnectionError: the name means nothing, or cannot be looked up now.
    """
    try:
        found = await RESOLVE.get()(host, port)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConnectionError(f"the name {host} cannot be resolved: {reason}") from None
    for address in found:
        reason = why_refused(address, port)
        if reason is not None:
            shown = address if address == host else f"{host} ({address})"
            raise AddressRefused(f"{shown} port {port} is refused: it is {reason}")
    if not found:
        raise ConnectionError(f"the name {host} has no address")
    return found


def why_refused(address: str, port: int) -> str | None:
    """Say what forbids a connection to an address; None if nothing does."""
    ip = _meant(ipaddress.ip_address(address.partition("%")[0]))  # whatever link it is reached by
    if ip.is_link_local or ip in METADATA:
        return "a link-local address, or one where clouds keep credentials"
    if ip.is_multicast or ip.is_unspecified or ip == _BROADCAST or ip in _THIS_NETWORK:
        return "not the address of one machine"
    if _own_ports[port] > 0 and _is_local(ip):
        return "this Aura server itself; use `task.run`, `task.start` or `event.emit`"
    return None


def _meant(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that stands in an IPv6 one, if there is one."""
    if isinstance(ip, IPv4Address) or ip.is_loopback or ip.is_unspecified:
        return ip
    if ip in _NAT64 or ip in _COMPATIBLE:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else ip)


def _is_local(ip: IPv4Address | IPv6Address) -> bool:
    """Whether it is an address of this machine: only to such a one a socket can be bound."""
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(ip), 0))
    except OSError:
        return False
    return True
