"""Run one of Flower's programs with the gaps of its command line closed.

`python -m fedgru.deploy.flower flower-superlink ...` is that program, except that

* it ends when the process that started it ends;
* a SuperLink and a SuperNode have doors (`Doors`): Flower 1.42 serves all APIs on one port, most of
  them without authentication, so that anybody who reaches the port could register a key, or start
  code on every node; and it reads a body whole before it asks whose it is. What a proxy says about
  the caller is not believed;
* a client runs only apps that `fedgru.deploy.bundle` allows;
* a SuperNode forgets a message if its run ended while it was received, as when a server is killed.
"""

import hmac
import ipaddress
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib import metadata
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from fedgru.core.errors import DataError
from fedgru.deploy import private, processes

logger = logging.getLogger("fedgru.deploy.flower")  # not __main__, as which it is run

FLEET, HEALTH = "/v1/fleet/", "/health"
SECRET_HEADER = "x-fedgru-secret"
MAX_BYTES = "FEDGRU_DEPLOY_MAX_BYTES"  # names the variable with the largest body of a request
QUEUE = "FEDGRU_DEPLOY_QUEUE"  # of the database in which messages wait
NO_MODEL_BYTES = 64 << 20  # largest body where no model sets it: between programs of one machine
BURST, REFILL_S = 4, 10.0  # a key may post so many of the largest bodies at once, then one in 10 s
QUEUE_BYTES, QUEUE_BODIES = 256 << 20, 64  # of the database, or so many of the largest bodies
KNOWN_S = 5.0
_WATCH_S, _GRACE_S = 0.5, 5.0


class Refused(Exception):
    """A request is answered with this status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Doors:
    """ASGI middleware in front of one of Flower's programs; it decides before a body is read.

    * The Fleet API is for nodes: of any machine, if keys are demanded only with a registered one.
    * All else, the Control and the Runtime API, is for the programs that fedgru has started itself:
      they know the secret. Requests from other machines are refused with it too.
    * No body is larger than the model demands, no key posts much more than it is asked for, and
      nothing is taken while the database is too large.

    Args:
        app: what is behind the doors.
        secret: text that opens the Control and the Runtime API.
        max_bytes: largest body of a request to the Fleet API.
        queue: path of the database, None where there is none.
    """

    def __init__(
        self,
        app: Callable[[Any, Any, Any], Awaitable[None]],
        secret: str,
        max_bytes: int = NO_MODEL_BYTES,
        queue: str | None = None,
    ) -> None:
        self.app, self._secret, self._max_bytes, self._queue = app, secret, max_bytes, queue
        self._known: dict[bytes, float] = {}  # key -> when it was last found to be registered
        self._left: dict[bytes, tuple[float, float]] = {}  # key -> (bytes it may post, since when)

    async def __call__(
        self, scope: dict[str, Any], receive: Any, send: Callable[[dict[str, Any]], Awaitable[None]]
    ) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        try:
            limit = await self._check(scope)
        except Refused as error:
            headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": error.status, "headers": headers})
            await send({"type": "http.response.body", "body": f"fedgru: {error}\n".encode()})
            return
        await self.app(scope, _at_most(receive, limit), send)

    async def _check(self, scope: dict[str, Any]) -> int:
        """Return the largest body of a request; raise Refused if it may not pass."""
        headers = dict(scope["headers"])
        if not scope["path"].startswith(FLEET):
            given = headers.get(SECRET_HEADER.encode(), b"").decode("latin-1")
            opens = hmac.compare_digest(given.encode(), self._secret.encode())
            if scope["path"] != HEALTH and not (opens and is_allowed(scope)):
                raise Refused(403, "this is for the server's own programs only")
            return NO_MODEL_BYTES
        size = _content_length(headers)
        if size > self._max_bytes:
            raise Refused(413, f"the body has {size:,} bytes, at most {self._max_bytes:,} are read")
        key = await self._check_key(scope["app"].state, headers)
        if key:
            self._count(key, size)
        if self._queue is not None and size and _size_of(self._queue) > self._most_queued:
            raise Refused(507, "too many messages wait: nothing more is taken until they are read")
        return self._max_bytes

    async def _check_key(self, state: Any, headers: dict[bytes, bytes]) -> bytes:
        """Return the public key of a request to the Fleet API, b"" where none is demanded.

        A key is looked up at most every KNOWN_S: Flower asks its database itself for each request.
        """
        from starlette.concurrency import run_in_threadpool

        if not getattr(state, "enable_supernode_auth", False):
            return b""
        try:
            key = private.key_of(headers)
        except (KeyError, ValueError, TypeError) as error:
            raise Refused(401, "no key signed this") from error
        if time.monotonic() - self._known.get(key, -KNOWN_S) >= KNOWN_S:
            self._known.pop(key, None)
            if not await run_in_threadpool(private.is_registered, key, state.linkstate_factory):
                raise Refused(401, "this key is not registered")
            self._known[key] = time.monotonic()
        return key

    @property
    def _most_queued(self) -> int:
        return max(QUEUE_BYTES, QUEUE_BODIES * self._max_bytes)

    def _count(self, key: bytes, size: int) -> None:
        """Take a body's bytes from what a key may post; raise Refused if it is less."""
        now, most = time.monotonic(), float(BURST * self._max_bytes)
        left, since = self._left.get(key, (most, now))
        left = min(most, left + (now - since) * self._max_bytes / REFILL_S)
        if size > left:
            raise Refused(429, "this key has sent too much: later again")
        self._left[key] = left - size, now


def _at_most(receive: Callable[[], Awaitable[dict[str, Any]]], limit: int) -> Any:
    """Receive a body up to a limit, also where its length was not said or is not true."""
    taken = 0

    async def receive_some() -> dict[str, Any]:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            return {"type": "http.disconnect"}
        return message

    return receive_some


def _content_length(headers: dict[bytes, bytes]) -> int:
    """The length that a request says; a body without one is refused, GET has none."""
    text = headers.get(b"content-length", b"")
    if b"transfer-encoding" in headers or (text and not text.isdigit()):
        raise Refused(411, "say how long the body is")
    return int(text or b"0")


def _size_of(database: str) -> int:
    """Bytes of a database of SQLite, with what is not yet merged into it."""
    found = 0
    for name in (database, f"{database}-wal"):
        with suppress(OSError):
            found += os.stat(name).st_size
    return found


def is_allowed(scope: dict[str, Any]) -> bool:
    """Whether an ASGI request may come from there: it is for the Fleet API, or of this machine.

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
    secret = os.environ[processes.SECRET]
    if program == "flower-superlink":
        options = {"max_bytes": int(os.environ[MAX_BYTES]), "queue": os.environ[QUEUE]}
        private.add_to_superlink(Doors, secret=secret, **options)
        private.believe_no_proxy()
    elif program == "flower-supernode":
        private.add_to_supernode(Doors, secret=secret)
        private.believe_no_proxy()
        private.forget_ignored_messages()
    else:
        private.send_header(SECRET_HEADER, secret)
    if program == "flwr-clientapp":
        private.check_apps(_check_app)
    sys.argv = [program, *arguments]
    sys.exit(entry.load()())


def _check_app(content: bytes) -> None:
    """Raise a DataError for an app that this client takes no part in; its log says why."""
    from fedgru.deploy import bundle
    from fedgru.deploy.client import LOG, logging_to

    apps = Path(os.environ[bundle.VARIABLE])
    with logging_to(apps.parent / LOG):
        try:
            bundle.check(content, apps)
        except DataError as error:
            logger.error("%s", error)
            raise


if __name__ == "__main__":
    main()
