"""Whether a port that is open on all network interfaces can be reached from the internet."""

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path

from fedgru.core.errors import ConfigError

ALLOW = "FEDGRU_TFF_OPEN_PORT"  # set to 1 in the environment to start the worker nevertheless
_LOCAL = re.compile(r"\|-- (\S+)\n\s+/32 host LOCAL")


def public_addresses(net: Path = Path("/proc/net")) -> list[str]:
    """Return this machine's addresses that the internet can reach if no firewall is before them.

    Args:
        net: folder in which Linux lists its addresses; elsewhere nothing is known.
    """
    found = set()
    if (net / "fib_trie").exists():
        found.update(_LOCAL.findall((net / "fib_trie").read_text()))
    if (net / "if_inet6").exists():
        for line in (net / "if_inet6").read_text().splitlines():
            digits = line.split()[0]
            found.add(":".join(digits[i : i + 4] for i in range(0, 32, 4)))
    addresses = sorted(map(ipaddress.ip_address, found), key=lambda one: (one.version, int(one)))
    return [str(one) for one in addresses if one.is_global]


def check_open_port(environment: Mapping[str, str] = os.environ, net: Path | None = None) -> None:
    """Raise a ConfigError on a machine with a public address, unless the environment allows it."""
    if environment.get(ALLOW) == "1":
        return
    found = public_addresses() if net is None else public_addresses(net)
    if found:
        raise ConfigError(
            f"`engine` tff starts a worker that listens on all network interfaces and asks for no "
            f"password, and this machine has the public address {found[0]}: whoever reaches the "
            f"worker's port can run TensorFlow here. If a firewall is before it, set {ALLOW}=1 in "
            "the environment; or take `engine` jax or reference."
        )
