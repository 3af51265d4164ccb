"""Network addresses: those of this machine, those that count as one client, and the URLs of servers."""

import ipaddress
import re
from typing import Any
from urllib.parse import urlsplit

from robobrain_ros.errors import EngineConfigError

_HOST_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def is_host(text: str) -> bool:
    """Return whether a text is the name or address of a host, without a port or other parts."""
    if _HOST_NAME.fullmatch(text):
        return True
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Return whether a name or address belongs to this machine and is unreachable from other machines."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def client_of(address: Any) -> str:
    """Return a client's identity for limits: its IPv4 address, or the /64 network of its IPv6 address, which one user can own.

    :param address: address of a socket: (host, port, ...).
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


def base_url(url: str) -> str:
    """Return the base URL of a server's API. If the URL has no path, /v1 is added."""
    parts = urlsplit(url.strip())
    return f"{parts.scheme.lower()}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def check_server_url(url: str) -> None:
    """Check a URL of ``engine.urls``.

    :raises EngineConfigError: the URL is malformed, or contains more than an address.
    """
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        # The message does not contain the URL, because the URL may contain a key.
        raise EngineConfigError("engine.urls contains more than addresses. Put a key into engine.key_file.")
    if parts.scheme.lower() not in ("http", "https") or not host:
        raise EngineConfigError(f"engine.urls: {url!r} is not the address of a server. Write it like http://gpu:9010/v1.")
