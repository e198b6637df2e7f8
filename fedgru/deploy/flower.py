"""Run one of Flower's programs with what its command line leaves open closed.

`python -m fedgru.deploy.flower flower-superlink ...` is that program, except that

* it ends with the process that started it, however that ends;
* a SuperLink answers calls from other machines on its Fleet API alone, the one for nodes. Flower
  1.42 serves the Control API on the same port and asks nobody there who they are: whoever reached
  the port could register a key of their own, or start code of their own on every node;
* a SuperNode forgets a message whose run ended while it was received, as when a server is killed.
"""

import ipaddress
import os
import signal
import sys
import threading
import time
from importlib import metadata

from fedgru.deploy import private

FLEET = "/v1/fleet/"
_WATCH_S, _GRACE_S = 0.5, 5.0


class OnlyFleetFromOutside:
    """ASGI middleware: another machine is answered on the Fleet API alone, else with a 403."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
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


def is_allowed(scope):
    """Whether an ASGI request may pass: by its path, or since it comes from this machine.

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


def _address(text):
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def end_with_parent():
    """End this process when the one that started it is gone; at the latest after some seconds."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main():
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
