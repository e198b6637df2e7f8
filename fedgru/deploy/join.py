"""`fedgru deploy client`: import a participant's file, and run a SuperNode on it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING

from fedgru.core.errors import ConfigError, Interrupted, RunError
from fedgru.data import datasets
from fedgru.deploy import bundle, processes, require_flower
from fedgru.deploy.client import DATA_SET, LOG, check_one_person
from fedgru.deploy.terms import LEDGER, Terms, read_ledger
from fedgru.storage.locks import Lock

if TYPE_CHECKING:
    from fedgru.data.datasets import DataSet

POLL_S = 0.3
AGAIN_S = 5.0
PATIENCE_S = 90.0  # Flower treats a killed node as online for up to a minute
_READY = "SuperNode ID: "
_REFUSED = (
    "refused: either the key is not registered yet, or the server still sees an earlier client "
    "with this key online; trying again"
)

logger = logging.getLogger(__name__)


def import_own(
    file: str | Path,
    folder: str | Path,
    columns: dict[str, str] | None = None,
    categories: str | None = None,
    skip_bad_rows: bool = False,
) -> DataSet:
    """Import a participant's file into its folder; it replaces an earlier one.

    Args:
        file: the check-ins of one person.
        folder: the client's folder.
        columns: {field: name in the header} of a table; None for the layout of TSMC2014.
        categories: see `load_scheme`; None takes "coarse" for TSMC2014, else "raw".
        skip_bad_rows: drop and count bad rows instead of stopping at the first.

    Returns:
        DataSet.

    Raises:
        ConfigError, DataError: if the file cannot be used, or is not of one person.
    """
    how = {"columns": columns} if columns else {}
    data_set = datasets.import_file(
        "csv" if columns else "tsmc2014",
        file,
        DATA_SET,
        folder,
        categories,
        overwrite=True,
        skip_bad_rows=skip_bad_rows,
        **how,
    )
    check_one_person(data_set)
    return data_set


class Client:
    """A SuperNode, started again when it ends.

    Args:
        folder: the client's folder, which holds its data set.
        address: of the server, HOST:PORT.
        ca: path of the authority's certificate; None for plaintext.
        key: path of the client's private key; None with plaintext.
        record: whether to keep a copy of every byte that is sent.
        patience_s: how long to try again if the server refuses this client.
        allowed: SHA-256 of apps to take part in, beside the one it has joined.
        terms: Terms.
    """

    def __init__(
        self,
        folder: str | Path,
        address: str,
        ca: str | Path | None,
        key: str | Path | None,
        record: bool = False,
        patience_s: float = PATIENCE_S,
        allowed: Sequence[str] = (),
        terms: Terms = Terms(),  # noqa: B008  # frozen
    ) -> None:
        self.folder, self.address, self.patience_s = Path(folder), address, patience_s
        self.ca, self.key, self.record, self.allowed = ca, key, record, allowed
        self.terms = terms

    def run(self, tell: Callable[[str], None]) -> None:
        """Answer the server until it is interrupted.

        Args:
            tell: called with each line for the user.

        Raises:
            ConfigError: if `ca` has not signed the server's certificate, or the key is missing.
            RunError: if the server refuses this client.
        """
        require_flower()
        self._check_key()
        lock = Lock(self.folder)
        lock.acquire()
        try:
            bundle.allow(self.folder, self.allowed)
            self.terms.write(self.folder)
            tell(_spent(self.folder, self.terms))
            self._run(tell)
        except KeyboardInterrupt as error:
            raise Interrupted(". Take part again with the same command.", error) from error
        finally:
            lock.release()

    def _check_key(self) -> None:
        if self.ca is None:
            return
        for what, file, advice in (
            ("ca", self.ca, "It is the ca.crt that the server's operator gives you."),
            ("key", self.key, "Make one with: fedgru deploy key NAME"),
        ):
            if file is None or not Path(file).is_file():
                raise ConfigError(f"`{what}` is {file}, but there is no such file. {advice}")

    def _run(self, tell: Callable[[str], None]) -> None:
        work = processes.follow(self.folder / LOG)
        refused_at = None
        while True:
            self._wait_for_server(tell)
            log_file = self.folder / "supernode.log"
            lines = processes.follow(log_file)
            with processes.running(
                "flower-supernode", self._arguments(), self._environment(), log_file
            ) as supernode:
                was_there = self._relay(supernode, lines, work, tell)
            now = time.monotonic()
            if was_there:
                refused_at = None
                tell("the connection was closed: trying again")
            else:
                if refused_at is None:
                    tell(_REFUSED)
                refused_at = refused_at or now
                if now - refused_at >= self.patience_s:
                    raise RunError(
                        f"{self.address} refuses this client. Has its operator registered "
                        f"{self.key}.pub? {log_file} ends with:\n{processes.tail(log_file)}"
                    )
            time.sleep(min(AGAIN_S, max(self.patience_s, 0.0)))

    def _wait_for_server(self, tell: Callable[[str], None]) -> None:
        is_waiting = False
        while not processes.check_server(self.address, self.ca):
            if not is_waiting:
                tell(f"no server listens at {self.address} yet: waiting")
            is_waiting = True
            time.sleep(1.0)

    def _relay(
        self,
        supernode: Popen[bytes],
        lines: Iterator[list[str]],
        work: Iterator[list[str]],
        tell: Callable[[str], None],
    ) -> bool:
        """Relay the client's log lines until it ends; return whether it was ever connected."""
        was_there = False
        while True:
            ended = supernode.poll() is not None
            for line in next(lines):
                if _READY in line and not was_there:
                    was_there = True
                    tell(f"connected to {self.address}; waiting for work")
            for line in next(work):
                tell(line)
            if ended:
                return was_there
            time.sleep(POLL_S)

    def _environment(self) -> dict[str, str]:
        home = self.folder / "flower"
        home.mkdir(exist_ok=True)
        apps = {bundle.VARIABLE: str((self.folder / bundle.APPS).resolve())}
        return processes.environment(home, **apps)

    def _arguments(self) -> list[str]:
        config = f"folder={_quoted(self.folder.resolve())} record={int(self.record)}"
        arguments = ["--superlink", self.address, "--node-config", config]
        arguments += ["--port", str(processes.free_port())]
        if self.ca is None:
            return [*arguments, "--insecure"]
        assert self.key is not None, "`_check_key` has refused this"
        arguments += ["--root-certificates", str(Path(self.ca).resolve())]
        return [*arguments, "--auth-supernode-private-key", str(Path(self.key).resolve())]


def _spent(folder: Path, terms: Terms) -> str:
    ledger = read_ledger(folder)
    if not ledger.sent:
        return f"no update has been sent yet; each one will be in {folder / LEDGER}"
    found = f"epsilon {ledger.epsilon(terms.delta):.3f} at delta {terms.delta:g}"
    most = "" if terms.max_epsilon is None else f", of at most {terms.max_epsilon:g}"
    return f"{len(ledger.sent)} updates have been sent so far, together {found}{most}"


def _quoted(path: Path) -> str:
    if '"' in str(path):
        raise ConfigError(f"{path} has a quotation mark in its name, which Flower does not allow.")
    return f'"{path}"'
