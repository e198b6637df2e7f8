"""Run one of Flower's programs with the gaps of its command line closed.

`python -m fedgru.deploy.flower flower-superlink ...` is that program, except that

* it ends when the process that started it ends;
* a SuperLink answers other machines only on its Fleet API, the one for nodes. Flower 1.42 serves
  the Control API on the same port without authentication: anybody who reaches the port could
  register a key, or start code on every node;
* a SuperNode forgets a message if its run ended while it was received, as when a server is killed.
"""

import ipaddress
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from importlib import metadata
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from fedgru.deploy import private

FLEET = "/v1/fleet/"
_WATCH_S, _GRACE_S = 0.5, 5.0


class OnlyFleetFromOutside:
    """ASGI middleware: other machines reach only the Fleet API, and get a 403 for the rest."""

    def __init__(self, app: Callable[[Any, Any, Any], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(
        self, scope: dict[str, Any], receive: Any, send: Callable[[dict[str, Any]], Awaitable[None]]
    ) -> None:
        if scope["type"] == "lifespan" or is_allowed(scope):
            await self.app(scope, receive, send)
            return
        if scope["type"] == "http":
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            body = b"fedgru: this is answered on the server's own machine only\n"
            await send({"type": "http.response.body", "body": body})
        else:
            await send({"type": "websocket.close"})


def is_allowed(scope: dict[str, Any]) -> bool:
    """Whether an ASGI request may pass: it is for the Fleet API, or comes from this machine.

    >>> request = {"type": "http", "client": ("10.0.0.7", 50123), "server": ("10.0.0.1", 9092)}
    >>> is_allowed(request | {"path": "/v1/fleet/pull-messages"})
    True
    >>> is_allowed(request | {"path": "/v1/control/start-run"})
    False
    >>> is_allowed(request | {"path": "/v1/control/start-run", "client": ("10.0.0.1", 50123)})
    True
    """
    if scope["type"] == "http" and scope["path"].startswith(FLEET):
        return True
    try:
        peer, own = (_address(scope[side][0]) for side in ("client", "server"))
    except (TypeError, ValueError, KeyError):
        return False
    return peer.is_loopback or peer == own


def _address(text: str) -> IPv4Address | IPv6Address:
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def end_with_parent() -> None:
    """End this process within seconds after the process that started it has ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    program, *arguments = sys.argv[1:]
    (entry,) = metadata.entry_points(group="console_scripts", name=program)
    end_with_parent()
    if program == "flower-superlink":
        private.add_to_superlink(OnlyFleetFromOutside)
    if program == "flower-supernode":
        private.forget_ignored_messages()
    sys.argv = [program, *arguments]
    sys.exit(entry.load()())


if __name__ == "__main__":
    main()
