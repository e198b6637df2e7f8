"""`fedgru deploy client`: import one's own file, and a SuperNode that answers with it."""

import logging
import time
from pathlib import Path

from fedgru.core.errors import ConfigError, Interrupted, RunError
from fedgru.data import datasets
from fedgru.deploy import processes, require_flower
from fedgru.deploy.client import DATA_SET, LOG, check_one_person
from fedgru.storage.locks import Lock

POLL_S = 0.3
AGAIN_S = 5.0
PATIENCE_S = 90.0  # Flower counts a node that was killed as online for up to a minute
_READY = "SuperNode ID: "
_TURNED_AWAY = (
    "turned away: either the key is not registered (yet), or the server takes an earlier client "
    "with this key for alive; trying again"
)

logger = logging.getLogger(__name__)


def import_own(file, folder, columns=None, categories=None, skip_bad_rows=False):
    """Import a participant's file into its folder, in place of an earlier one.

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
        patience_s: how long to try again when the server turns this client away.
    """

    def __init__(self, folder, address, ca, key, record=False, patience_s=PATIENCE_S):
        self.folder, self.address, self.patience_s = Path(folder), address, patience_s
        self.ca, self.key, self.record = ca, key, record

    def run(self, tell):
        """Answer the server until this is stopped from outside.

        Args:
            tell: called with each line that a person should read.

        Raises:
            ConfigError: if the server is not the one that `ca` vouches for, or the key is missing.
            RunError: if the server turns this client away.
        """
        require_flower()
        self._check_key()
        lock = Lock(self.folder)
        lock.acquire()
        try:
            self._run(tell)
        except KeyboardInterrupt as error:
            raise Interrupted(". The same command takes part again.", error) from error
        finally:
            lock.release()

    def _check_key(self):
        if self.ca is None:
            return
        for what, file, advice in (
            ("--ca", self.ca, "It is the ca.crt that the server's operator gives you."),
            ("--key", self.key, "Make one with: fedgru deploy key NAME"),
        ):
            if not Path(file).is_file():
                raise ConfigError(f"{what} {file} is not there. {advice}")

    def _run(self, tell):
        work = processes.follow(self.folder / LOG)
        turned_away_at = None
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
                turned_away_at = None
                tell("the connection was closed: trying again")
            else:
                if turned_away_at is None:
                    tell(_TURNED_AWAY)
                turned_away_at = turned_away_at or now
                if now - turned_away_at >= self.patience_s:
                    raise RunError(
                        f"{self.address} turns this client away. Has its operator registered "
                        f"{self.key}.pub? {log_file} ends with:\n{processes.tail(log_file)}"
                    )
            time.sleep(min(AGAIN_S, max(self.patience_s, 0.0)))

    def _wait_for_server(self, tell):
        told = False
        while not processes.check_server(self.address, self.ca):
            if not told:
                tell(f"nobody listens at {self.address} yet: waiting")
            told = True
            time.sleep(1.0)

    def _relay(self, supernode, lines, work, tell):
        """Pass on what the client does; return whether it ever was connected, once it has ended."""
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

    def _environment(self):
        home = self.folder / "flower"
        home.mkdir(exist_ok=True)
        return processes.environment(home)

    def _arguments(self):
        config = f"folder={_quoted(self.folder.resolve())} record={int(self.record)}"
        arguments = ["--superlink", self.address, "--node-config", config]
        arguments += ["--port", processes.free_port()]
        if self.ca is None:
            return [*arguments, "--insecure"]
        arguments += ["--root-certificates", Path(self.ca).resolve()]
        return [*arguments, "--auth-supernode-private-key", Path(self.key).resolve()]


def _quoted(path):
    if '"' in str(path):
        raise ConfigError(f"{path} has a quotation mark in its name, which Flower cannot take.")
    return f'"{path}"'
