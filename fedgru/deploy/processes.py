"""Flower's programs as child processes that do not outlive fedgru.

They run as `python -m fedgru.deploy.flower PROGRAM ...`, so that what Flower's own command line
leaves open is closed: see that module.
"""

import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from fedgru.core.errors import ConfigError

STARTED_BY_FLOWER = ("flower-superexec", "flwr-serverapp", "flwr-clientapp")
STOP_S = 8.0  # how long a program may take to end before it is killed


def environment(home, **more):
    """Return the environment of Flower's programs: no telemetry, no downloads, own folder.

    Args:
        home: folder for what Flower keeps, in place of ~/.flwr; it is there.
        more: further variables.
    """
    return os.environ | {
        "PATH": f"{_write_programs(home)}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(Path(home).resolve()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **more,
    }


def _write_programs(home):
    """Return a folder with the programs that Flower starts by name, so that these end with it too.

    Flower's own watch takes a parent that is dead and not yet waited for as alive.
    """
    folder = Path(home).resolve() / "bin"
    folder.mkdir(exist_ok=True)
    for program in STARTED_BY_FLOWER:
        file = folder / program
        command = shlex.join([sys.executable, "-m", "fedgru.deploy.flower", program])
        file.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        file.chmod(0o755)
    return folder


@contextmanager
def running(program, arguments, env, log_file):
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
            start_new_session=True,  # Ctrl-C is for fedgru, which then ends it
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process):
    """End a program and all that it has started; it is given the time to say goodbye."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # its session: also what outlived it
    process.wait()


def tail(log_file, lines=5):
    """Return the last lines of a log of Flower's that say what went wrong, as one text."""
    text = re.sub(r"\x1b\[\d*m", "", Path(log_file).read_text("utf-8", errors="replace"))
    told = [line.strip() for line in text.splitlines() if line.strip() and "INFO" not in line]
    return "\n".join(f"  {line}" for line in told[-lines:])


def follow(file):
    """Return an iterator without end: the list of lines that were added to a file since the last.

    The first list begins with what is added after this call, so follow before what writes starts.
    """
    file = Path(file)
    return _added(file, file.stat().st_size if file.exists() else 0)


def _added(file, place):
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


def wait_until(test, timeout_s, poll_s=0.2):
    """Return whether test() has become true within some seconds."""
    deadline = time.monotonic() + timeout_s
    while not test():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_s)
    return True


def is_free(host, port):
    """Whether one could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
        except OSError:
            return False
    return True


def free_port():
    """Return a port of this machine that nobody listens to now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def split_address(address):
    """Return (host, port) of a text like fed.example.org:9092 or [::1]:9092.

    Raises:
        ConfigError: if it is not one.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"{address!r} is no address, expected HOST:PORT such as localhost:9092.")
    return host, int(port)


def check_server(address, ca, timeout_s=10.0):
    """Look whether a server answers as a client needs it.

    Args:
        address: text.
        ca: path of the authority's certificate; None for a server without TLS.
        timeout_s: float.

    Returns:
        Whether anybody listens there.

    Raises:
        ConfigError: if who listens there has another certificate than `ca` vouches for, or no
            TLS where it should, or TLS where it should not.
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


def _check_tls(plain, host, address, ca):
    try:
        context = ssl.create_default_context(cafile=str(ca))
    except OSError as error:
        raise ConfigError(f"{ca} is no certificate that can be read: {error}.") from None
    try:
        with context.wrap_socket(plain, server_hostname=host):
            return
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(
            f"{address} is not the server that {ca} vouches for: {error.verify_message}. Ask its "
            "operator for the right ca.crt, and for a certificate with the name that you use."
        ) from None
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"{address} does not speak TLS ({getattr(error, 'reason', None) or error}). Nothing "
            "was sent."
        ) from None


def _check_plain(plain, host, address):
    """A server with TLS closes the connection, or sends an alert, where plain HTTP is spoken."""
    with suppress(OSError):
        plain.sendall(f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        if plain.recv(5).startswith(b"HTTP/"):
            return
    raise ConfigError(f"{address} wants TLS: leave --insecure out and give --ca.")
