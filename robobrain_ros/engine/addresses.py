"""Network addresses: which ones belong to this machine, and which ones count as one client."""

import ipaddress
from typing import Any


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own, reachable from nowhere else."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def client_of(address: Any) -> str:
    """Return a client's identity for limits: its IPv4 address, or the /64 network of its IPv6 address, which one user can own.

    :param address: of a socket: host and port.
    """
    try:
        ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
    except (ValueError, TypeError, IndexError):
        return "unknown"
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((int(ip) >> 64 << 64, 64)))
    return str(ip)
