"""`fedgru deploy server`: a SuperLink, the clients' keys in it, and one run of an app."""

import hashlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedgru.core import seeding
from fedgru.core.errors import ConfigError, FedgruError, Interrupted, RunError
from fedgru.deploy import processes, require_flower
from fedgru.deploy.app import App, check_deployable, read_app
from fedgru.deploy.bundle import sha256_of_folder
from fedgru.deploy.flower import MAX_BYTES, QUEUE
from fedgru.deploy.keys import CA_CERT, SERVER_CERT, SERVER_KEY, check_certificate, public_keys
from fedgru.deploy.server import JOB, LOG, OUTCOME, STATE, UNFINISHED
from fedgru.runs.folder import RunFolder
from fedgru.storage.files import read_json_object, write_text
from fedgru.storage.locks import Lock, is_locked

UP_S = 600.0  # for a SuperLink to listen: seconds on an idle machine, minutes on a busy one
GONE_S = 60.0  # wait this long for the programs of a killed server to end
POLL_S = 0.3
KEYS_S = 10.0  # how often the folder of keys is read
ALIVE_S = 30.0  # how often Flower is asked whether the run is alive
_CONNECTION, _DATABASE = "here", "superlink.db"

logger = logging.getLogger(__name__)


class Server:
    """Flower's programs for one run.

    Args:
        folder: the server's folder, with the files that it needs to resume after a kill.
        app_folder: from `write_app`.
        host, port: where to listen.
        certificates: folder, see `make_certificate`; None for plaintext without authentication.
        keys: folder of the clients' public keys; None without certificates.
    """

    def __init__(
        self,
        folder: str | Path,
        app_folder: str | Path,
        host: str,
        port: int,
        certificates: str | Path | None,
        keys: str | Path | None,
    ) -> None:
        self.folder, self.app_folder = Path(folder), Path(app_folder)
        self.host, self.port = host, port
        self.certificates = None if certificates is None else Path(certificates)
        self.keys = keys
        self._registered = self.folder / "registered.json"  # {sha256 of the key: [name, node id]}
        self._env: dict[str, str] = {}

    def run(
        self, log_dir: str | Path, clients: int, timeout_s: float, tell: Callable[[str], None]
    ) -> RunFolder:
        """Serve until the run is done.

        Args:
            log_dir: folder of all runs.
            clients: how many to wait for before round 1.
            timeout_s: how long to wait for a client's reply.
            tell: called with each line for the user.

        Returns:
            RunFolder.

        Raises:
            ConfigError: if app, certificates or keys cannot be used.
            RunError: if a program of Flower's cannot be started, or the run fails.
        """
        require_flower()
        app = read_app(self.app_folder)
        check_deployable(app.settings)
        if self.certificates is not None:
            assert self.keys is not None, "certificates come with keys"
            check_certificate(self.certificates)
            public_keys(self.keys)
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(self.folder)
        lock.acquire()
        try:
            self._check_unfinished(app)
            self._wait_for_port()
            job = {"log_dir": str(Path(log_dir).resolve()), "clients": clients}
            write_text(self.folder / JOB, json.dumps(job | {"timeout_s": timeout_s}))
            (self.folder / OUTCOME).unlink(missing_ok=True)
            self._prepare_home(app)
            log_file = self.folder / "superlink.log"
            with processes.running(
                "flower-superlink", self._superlink_arguments(), self._env, log_file
            ) as superlink:
                self._wait_until_up(superlink, log_file)
                names = self._sync_keys()
                self._say_where(tell, names)
                lines = processes.follow(self.folder / LOG)
                run_id = self._start_run()
                outcome = self._wait_for_end(superlink, log_file, run_id, lines, tell)
        except KeyboardInterrupt as error:
            raise Interrupted(". Resume with the same command.", error) from error
        finally:
            lock.release()
        if "error" in outcome:
            raise RunError(outcome["error"])
        return RunFolder(outcome["run"])

    def _check_unfinished(self, app: App) -> None:
        """Raise a ConfigError if an unfinished run belongs to another app."""
        unfinished = self.folder / UNFINISHED
        if not unfinished.exists():
            return
        run = RunFolder(unfinished.read_text("utf-8").strip())
        if run.facts().get("fingerprint") != app.sha256:
            raise ConfigError(
                f"{run.path} is not done, and was begun with another app than {self.app_folder}. "
                f"Restore that app to resume the run, or give it up by deleting {unfinished}."
            )
        if not processes.wait_until(lambda: not is_locked(run.path), GONE_S):
            raise RunError(f"{run.path} is being written by another process: end that first.")
        logger.info("resuming %s", run.path)

    def _wait_for_port(self) -> None:
        """Wait until the programs of a killed server have ended."""
        if not processes.wait_until(lambda: processes.is_free(self.host, self.port), GONE_S):
            raise ConfigError(
                f"`port` {self.port} of `host` {self.host} is in use, or is no address of this "
                "machine."
            )

    def _prepare_home(self, app: App) -> None:
        home = self.folder / "flower"
        home.mkdir(exist_ok=True)
        self._env = processes.environment(
            home,
            **{
                STATE: str(self.folder.resolve()),
                MAX_BYTES: str(largest_body(app)),
                QUEUE: str((self.folder / _DATABASE).resolve()),
            },
        )
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        self._local = f"{host}:{self.port}"
        trust = (
            "insecure = true"
            if self.certificates is None
            else f"root-certificates = {json.dumps(str((self.certificates / CA_CERT).resolve()))}"
        )
        write_text(
            home / "config.toml",
            f'[superlink]\ndefault = "{_CONNECTION}"\n\n[superlink.{_CONNECTION}]\n'
            f"address = {json.dumps(self._local)}\n{trust}\n",
        )

    def _superlink_arguments(self) -> list[Any]:
        arguments = ["--host", self.host, "--port", self.port]
        arguments += ["--database", (self.folder / _DATABASE).resolve()]
        arguments += ["--disable-runtime-dependency-installation"]
        if self.certificates is None:
            return [*arguments, "--insecure"]
        for option, name in (
            ("--ssl-ca-certfile", CA_CERT),
            ("--ssl-certfile", SERVER_CERT),
            ("--ssl-keyfile", SERVER_KEY),
        ):
            arguments += [option, (self.certificates / name).resolve()]
        return [*arguments, "--enable-supernode-auth"]

    def _wait_until_up(self, superlink: subprocess.Popen[bytes], log_file: Path) -> None:
        ca = None if self.certificates is None else self.certificates / CA_CERT

        def is_settled() -> bool:
            return superlink.poll() is not None or processes.check_server(self._local, ca)

        if not processes.wait_until(is_settled, UP_S) or superlink.poll() is not None:
            raise RunError(
                f"Flower's SuperLink did not start to listen at {self._local}. Its log, "
                f"{log_file}, ends with:\n{processes.tail(log_file)}"
            )

    def _start_run(self) -> str:
        """Start the app; first stop the Flower run of a killed server."""
        before = self.folder / "flower-run"
        if before.exists():
            with suppress(RunError):  # it can have ended, or be unknown
                self._flwr("stop", before.read_text("utf-8"), _CONNECTION)
        run_id: str = self._flwr("run", self.app_folder, _CONNECTION)["run-id"]
        write_text(before, run_id)
        return run_id

    def _sync_keys(self) -> list[str]:
        """Register keys that are new in the folder, and withdraw removed ones.

        Returns:
            Names of the registered clients.
        """
        if self.certificates is None:
            return []
        assert self.keys is not None, "certificates come with keys"
        known = {}
        if self._registered.exists() and (self.folder / _DATABASE).exists():
            known = read_json_object(self._registered)
        here: dict[str, tuple[str, Path]] = {}
        for name, file in public_keys(self.keys).items():
            here.setdefault(hashlib.sha256(file.read_bytes()).hexdigest(), (name, file))
        for sha256, (name, file) in here.items():
            if sha256 not in known:
                said = self._flwr("supernode", "register", file, _CONNECTION, "--name", name)
                known[sha256] = [name, str(said["node-id"])]
                write_text(self._registered, json.dumps(known))
                logger.info("registered the key of %s", name)
        for sha256 in [sha256 for sha256 in known if sha256 not in here]:
            name, node_id = known[sha256]
            self._flwr("supernode", "unregister", node_id, _CONNECTION)
            del known[sha256]
            write_text(self._registered, json.dumps(known))
            logger.info("withdrew the key of %s", name)
        return [name for name, _ in known.values()]

    def _say_where(self, tell: Callable[[str], None], names: Sequence[str]) -> None:
        scheme = "http" if self.certificates is None else "https"
        tell(f"listening at {scheme}://{self.host}:{self.port}")
        tell(f"SHA-256 of the app, for its clients: {sha256_of_folder(self.app_folder)}")
        if names:
            tell(f"keys registered: {', '.join(names)}")

    def _flwr(self, *arguments: Any) -> dict[str, Any]:
        """Run Flower's command line and return the JSON object that it prints."""
        command = [sys.executable, "-m", "fedgru.deploy.flower", "flwr"]
        command += [*map(str, arguments), "--format", "json"]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True)
        try:
            said = json.loads(done.stdout)
        except ValueError:
            said = {}
        if done.returncode or not said.get("success", True):
            why = said.get("error-message") or done.stderr.strip() or done.stdout.strip()
            raise RunError(f"Flower refused `flwr {' '.join(map(str, arguments))}`: {why}")
        return said

    def _wait_for_end(
        self,
        superlink: subprocess.Popen[bytes],
        log_file: Path,
        run_id: str,
        lines: Iterator[list[str]],
        tell: Callable[[str], None],
    ) -> dict[str, Any]:
        """Relay the lines of the run's log until it has ended; return its outcome, a dict."""
        synced = asked = time.monotonic()
        while True:
            for line in next(lines):
                tell(line)
            if (self.folder / OUTCOME).exists():
                for line in next(lines):
                    tell(line)
                return read_json_object(self.folder / OUTCOME)
            if superlink.poll() is not None:
                raise RunError(
                    f"Flower's SuperLink ended. Its log, {log_file}, ends with:\n"
                    f"{processes.tail(log_file)}\nResume with the same command."
                )
            now = time.monotonic()
            if self.certificates is not None and now - synced > KEYS_S:
                synced = now
                try:
                    self._sync_keys()
                except FedgruError as error:
                    tell(f"the keys were not changed: {error}")
            if now - asked > ALIVE_S:
                asked = now
                self._check_alive(run_id, log_file)
            time.sleep(POLL_S)

    def _check_alive(self, run_id: str, log_file: Path) -> None:
        """Raise a RunError if the app has ended without an outcome, as after a kill."""
        said = self._flwr("list", _CONNECTION, "--run-id", run_id)
        status = str(said["runs"][0]["status"])
        if status.startswith("finished") and not (self.folder / OUTCOME).exists():
            raise RunError(
                f"the run's process ended ({status}). {log_file} ends with:\n"
                f"{processes.tail(log_file)}\nResume with the same command."
            )


def largest_body(app: App) -> int:
    """Return the bytes of the largest request that a node has a reason to send.

    An update has 4 bytes a weight, a masked one 8, once more for the rows that are owned; Flower
    sends it in parts.
    """
    weights = app.schema.spec.init_weights(seeding.rng(0, "largest body"))
    return 16 * sum(array.size for array in weights.values()) + (512 << 10)
