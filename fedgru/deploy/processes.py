"""Flower's programs as child processes that do not outlive fedgru.

They run as `python -m fedgru.deploy.flower PROGRAM ...`, which closes gaps of Flower's own command
line: see that module.
"""

import os
import re
import secrets
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedgru.core.errors import ConfigError

STARTED_BY_FLOWER = ("flower-superexec", "flwr-serverapp", "flwr-clientapp")
# what a server could have a client start, and fedgru has no use for
REFUSED = ("flwr-agentapp", "flwr-connector", "flwr-model", "flwr-simulation")
SECRET = "FEDGRU_DEPLOY_SECRET"  # opens the doors of Flower's programs to each other, see flower.py
STOP_S = 8.0  # a program that takes longer to end is killed


def environment(home: str | Path, **more: str) -> dict[str, str]:
    """Return the environment of Flower's programs: no telemetry or downloads, own folder, a secret.

    Args:
        home: existing folder for Flower's files, in place of ~/.flwr.
        more: further variables.
    """
    own = {
        name: value
        for name, value in os.environ.items()
        # which would change who is believed to call, and how much
        if name != "FORWARDED_ALLOW_IPS" and not name.startswith(("UVICORN_", "FLWR_"))
    }
    return own | {
        SECRET: secrets.token_hex(32),
        "PATH": f"{_write_programs(home)}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(Path(home).resolve()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **more,
    }


def _write_programs(home: str | Path) -> Path:
    """Return a folder with the programs that Flower starts by name, so that these end with it.

    Flower's own check treats a parent that is a zombie as alive.
    """
    folder = Path(home).resolve() / "bin"
    folder.mkdir(exist_ok=True)
    for program in STARTED_BY_FLOWER:
        file = folder / program
        command = shlex.join([sys.executable, "-m", "fedgru.deploy.flower", program])
        file.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        file.chmod(0o755)
    for program in REFUSED:
        (folder / program).write_text(f"#!/bin/sh\necho fedgru: no {program} here >&2\nexit 1\n")
        (folder / program).chmod(0o755)
    return folder


@contextmanager
def running(
    program: str, arguments: Iterable[Any], env: dict[str, str], log_file: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of Flower's programs while the context lasts.

    Args:
        program: such as "flower-superlink".
        arguments: list of texts.
        env: dict.
        log_file: path, to which its output is added.

    Yields:
        subprocess.Popen.
    """
    command = [sys.executable, "-m", "fedgru.deploy.flower", program, *map(str, arguments)]
    with open(log_file, "ab") as log:
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C goes to fedgru, which then ends it
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a program and all that it has started; it has STOP_S to end by itself."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # also children that outlived it
    process.wait()


def tail(log_file: str | Path, lines: int = 5) -> str:
    """Return the last lines of Flower's log that are no INFO, as one text."""
    text = re.sub(r"\x1b\[\d*m", "", Path(log_file).read_text("utf-8", errors="replace"))
    found = [line.strip() for line in text.splitlines() if line.strip() and "INFO" not in line]
    return "\n".join(f"  {line}" for line in found[-lines:])


def follow(file: str | Path) -> Iterator[list[str]]:
    """Return an endless iterator: each item is the list of lines added to a file since the last.

    The first list begins with lines added after this call. So call it before the writer starts.
    """
    file = Path(file)
    return _added(file, file.stat().st_size if file.exists() else 0)


def _added(file: Path, place: int) -> Iterator[list[str]]:
    rest = ""
    while True:
        added = ""
        if file.exists():
            with open(file, encoding="utf-8", errors="replace") as stream:
                stream.seek(place)
                added = stream.read()
                place = stream.tell()
        *lines, rest = (rest + added).split("\n")
        yield lines


def wait_until(test: Callable[[], bool], timeout_s: float, poll_s: float = 0.2) -> bool:
    """Return whether test() becomes true within some seconds."""
    deadline = time.monotonic() + timeout_s
    while not test():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_s)
    return True


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a port of this machine that nobody listens to now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def split_address(address: str) -> tuple[str, int]:
    """Return (host, port) of a text like fed.example.org:9092 or [::1]:9092.

    Raises:
        ConfigError: if it is not one.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"{address!r} is no address, expected HOST:PORT such as localhost:9092.")
    return host, int(port)


def check_server(address: str, ca: str | Path | None, timeout_s: float = 10.0) -> bool:
    """Return whether a server listens, and check its certificate.

    Args:
        address: text.
        ca: path of the authority's certificate; None for a server without TLS.
        timeout_s: float.

    Returns:
        Whether a server listens there.

    Raises:
        ConfigError: if `ca` has not signed its certificate, if it has no TLS but should, or has
            TLS but should not.
    """
    host, port = split_address(address)
    try:
        plain = socket.create_connection((host, port), timeout_s)
    except OSError:
        return False
    with plain:
        if ca is None:
            _check_plain(plain, host, address)
        else:
            _check_tls(plain, host, address, ca)
    return True


def _check_tls(plain: socket.socket, host: str, address: str, ca: str | Path) -> None:
    try:
        context = ssl.create_default_context(cafile=str(ca))
    except OSError as error:
        raise ConfigError(f"{ca} is no certificate that can be read: {error}.") from None
    try:
        with context.wrap_socket(plain, server_hostname=host):
            return
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(
            f"the certificate of {address} is not valid for {ca}: {error.verify_message}. Ask the "
            "operator for the right ca.crt, and for a certificate with the name that you use."
        ) from None
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"{address} does not use TLS ({getattr(error, 'reason', None) or error}). Nothing "
            "was sent."
        ) from None


def _check_plain(plain: socket.socket, host: str, address: str) -> None:
    """Raise a ConfigError if a server wants TLS: it does not answer plain HTTP."""
    with suppress(OSError):
        plain.sendall(f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        if plain.recv(5).startswith(b"HTTP/"):
            return
    raise ConfigError(f"{address} wants TLS: leave `insecure` out and give `ca`.")
