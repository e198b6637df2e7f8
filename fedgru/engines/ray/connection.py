"""How fedgru reaches a Ray cluster: it joins one, or starts one on this machine alone."""

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from fedgru.core.errors import TrainingError
from fedgru.engines.ray import private

START_TIMEOUT_S = 120
ANSWER_TIMEOUT_S = 10

logger = logging.getLogger(__name__)

_open: "Connection | None" = None  # of this process


def import_ray(joins: bool) -> Any:
    """Return the ray module, set up so that it sends no usage reports.

    A Ray that is started here asks for a random password of this process: without one, other users
    of the machine could run their code in it. A cluster that is joined has its own rules
    (RAY_AUTH_MODE, RAY_AUTH_TOKEN).
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    draws = not joins and "RAY_AUTH_MODE" not in os.environ
    if draws:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    import ray

    if draws:
        private.read_environment_again()
    return ray


def connect(address: str | None, num_cpus: int) -> "Connection":
    """Return the Connection of this process; there is one at a time, which engines share.

    Args:
        address: see RaySettings.ray_address.
        num_cpus: int, the CPUs of a Ray that is started here.

    Raises:
        TrainingError: if Ray does not start, cannot be reached, or is connected to another address.
    """
    global _open
    if _open is None:
        _open = Connection(address, num_cpus)
    elif _open.address != address:
        raise TrainingError(
            f"this process is on the Ray cluster {_open.address or 'that it started'}, and cannot "
            f"join {address or 'another one'} at the same time."
        )
    _open.num_users += 1
    return _open


class Connection:
    """Ray as this process sees it, from the first `connect` to the last `release`.

    Args: see `connect`.

    Attributes:
        address: as given.
        ray: the ray module.
        num_users: how many engines use it.
    """

    def __init__(self, address: str | None, num_cpus: int) -> None:
        self.address = address
        self.num_users = 0
        self._node = None
        if address not in (None, "auto"):
            _check_answers(address)
        self.ray = import_ray(joins=address is not None)
        if address is None:
            self._node, address = _start_node(num_cpus)
        private.print_into(lambda line: logger.info("Ray: %s", line))
        try:
            with _own_sigterm(), nullcontext() if self._node is None else private.on_loopback():
                self.ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
        except BaseException as error:
            self._leave()
            expected = OSError, RuntimeError, ValueError, self.ray.exceptions.RayError
            if not isinstance(error, expected):
                raise
            raise TrainingError(
                f"cannot join the Ray cluster at {address}: {_first_line(error)}. fedgru has to "
                "run on a machine of the cluster (ray start --address=HOST:PORT), and where the "
                "cluster asks for a token, with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN as there."
            ) from error

    def release(self) -> None:
        """Leave Ray, and end the one started here, if nobody else uses this Connection."""
        global _open
        self.num_users -= 1
        if not self.num_users:
            _open = None
            self._leave()

    def _leave(self) -> None:
        self.ray.shutdown()
        if self._node is not None:
            _stop(self._node)


def _check_answers(address: str) -> None:
    """Refuse an address where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), ANSWER_TIMEOUT_S).close()
    except OSError as error:
        raise TrainingError(
            f"no Ray cluster answers at {address} ({error.strerror or error}). On its first "
            f"machine: ray start --head --port={port}"
        ) from error


def _start_node(num_cpus: int) -> tuple[subprocess.Popen[bytes], str]:
    """Start Ray on this machine; return the program that runs it, and its address."""
    folder = tempfile.mkdtemp(prefix="fedgru-")
    printed = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
    # A session of its own: Ctrl-C comes to fedgru alone, which then ends Ray.
    node = subprocess.Popen(
        [sys.executable, "-m", "fedgru.engines.ray.node", folder, str(num_cpus)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=printed,
        start_new_session=True,
    )
    patience = threading.Timer(START_TIMEOUT_S, node.kill)
    patience.start()
    assert node.stdout is not None, "it is a pipe"
    try:
        address = node.stdout.readline().decode().strip()
    except BaseException:
        _stop(node)
        raise
    finally:
        patience.cancel()
    if not address:
        _stop(node)
        printed.seek(0)
        said = printed.read().strip()[-2000:] or "nothing"
        raise TrainingError(f"Ray does not start on this machine. It printed: {said}")
    return node, address


def _stop(node: subprocess.Popen[bytes]) -> None:
    assert node.stdin is not None and node.stdout is not None, "they are pipes"
    node.stdin.close()
    node.wait()
    node.stdout.close()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM, which `ray.init` replaces; a SIGTERM is delayed to the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
