"""The run folder: settings, events, results.

config.toml    every setting, resolved; `fedgru train --config` reads it unchanged
run.json       versions, data fingerprint, coverage, unknown rates, how it ended
metrics.csv    one row per round; the same seed gives the same bytes
times.csv      seconds per round
faults.csv     clients that dropped out of a round or were left out of its mean, and why
run.log        log with times, and tracebacks
best.npz, last.npz   weights (no pickle)
test.json, clients.csv   the evaluation, overall and per client
predictions.parquet      the evaluation, target by target
clients-fine-tuned.csv   as clients.csv, after `fedgru eval --fine-tune`
audit.json     accuracy of fresh probes on the representation, after `fedgru audit`
attacks.json   what updates reveal and who took part, after `fedgru audit --attack`
train/, val/, eval/      TensorBoard event files
checkpoints/   until the run is done: what resuming needs, see fedgru/runs/checkpoints.py
.lock          while a process writes here: its number
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import logging
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from fedgru import config
from fedgru.config.settings import Settings
from fedgru.core.errors import FedgruError, Interrupted, RunError
from fedgru.core.types import Columns, Doubles, Row, Weights
from fedgru.core.versions import installed_versions
from fedgru.core.visible import VisibleFormatter
from fedgru.runs import arrays, order, shapes, tables
from fedgru.runs.checkpoints import Checkpoints
from fedgru.runs.kinds import FEDERATED, KINDS, RunKind
from fedgru.runs.tensorboard import EventFiles
from fedgru.storage.files import (
    naming,
    sync_folder,
    write_text,
)
from fedgru.storage.folders import check_plain, mend, scratch_folder
from fedgru.storage.locks import Lock, is_locked
from fedgru.storage.tables import append_csv, write_csv, write_json, write_parquet, write_table

if TYPE_CHECKING:
    from fedgru.training.loop import Checkpoint, TrainResult

_OF_THE_BEST = (
    *("test.json", "predictions.parquet", "clients.csv", "clients-fine-tuned.csv"),
    *("audit.json", "attacks.json"),
)
_LISTED_METRICS = ("test/acc@1/micro", "test/loss/micro")

logger = logging.getLogger(__name__)


_Cells = TypeVar("_Cells")


class RunFolder:
    """One run's folder, open for writing while the run lasts.

    Use it as a context manager while you work on the run. Then no other process may write to the
    folder, log lines and errors go to run.log, and an error marks a run that was training as
    interrupted or failed.

    Attributes:
        path: Path of the folder.
        checkpoints: Checkpoints.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = Checkpoints(self.path)
        self._events = EventFiles(self.path)
        self._lock = Lock(self.path)
        self._handler: _RunLog | None = None
        self._is_checked = False
        self._salt = secrets.token_hex(16)  # of a run that an earlier fedgru made
        self._trains = False  # whether an error is a failure of the run, not of a reader of it

    @classmethod
    def create(cls, log_dir: str | Path, settings: Settings, facts: dict[str, Any]) -> Self:
        """Make a new folder `<log_dir>/<time>-<name>/`, whole or not at all; no two runs share one.

        Args:
            log_dir: folder of all runs, made if missing.
            settings: Settings.
            facts: dict for run.json: what else is known before round 1.

        Raises:
            RunError: if the folder cannot be written.
        """
        log_dir = Path(log_dir)
        order.warn_of_clock(log_dir)
        toml = config.dump(settings)
        facts = {
            "started": order.now(),
            **facts,
            "config_sha256": hashlib.sha256(toml.encode()).hexdigest(),
            "versions": installed_versions(),
            "salt": secrets.token_hex(16),
            "status": "running",
        }
        stem = f"{time.strftime('%Y-%m-%d-%H%M%S')}-{settings.loop.name}"
        try:
            log_dir.mkdir(parents=True, exist_ok=True)
            # not `writing_folder`: the name is the first free one, known only at the move
            with scratch_folder(log_dir / "run") as scratch:
                new = scratch / "new"
                new.mkdir(0o700)  # predictions and scores of persons are not everybody's
                write_text(new / "config.toml", toml)
                write_json(new / "run.json", facts)
                run = cls(_move_to_new(new, log_dir / stem))
            sync_folder(log_dir)
        except OSError as error:
            raise RunError(
                f"cannot write to {log_dir}: {error.strerror}. Choose another folder with "
                "`log_dir`."
            ) from None
        run._trains = True
        return run

    def check(self) -> None:
        """Raise a RunError if the folder, which can be a stranger's, is not fit to be used.

        It must hold plain files and folders of its own, see `storage.folders.check_plain`. Only
        the first call looks.
        """
        if self._is_checked:
            return
        try:
            check_plain(self.path)
        except ValueError as error:
            raise RunError(
                f"{error}: fedgru makes no such run folder. Delete that file, or the run."
            ) from None
        self._is_checked = True
        self._mend()

    def _mend(self) -> None:
        """Remove files that a killed process left unfinished, unless another writes here."""
        folders = (self.path, self.checkpoints.folder)
        left = (file for folder in folders for file in folder.glob(".*.part"))
        if not any(left) or is_locked(self.path):
            return
        lock = Lock(self.path)
        with suppress(RunError, OSError):
            lock.acquire()
            for folder in folders:
                mend(folder)
        lock.release()

    def _file(self, name: str) -> Path:
        """The path of a file to read, in a folder that was checked."""
        self.check()
        return self.path / name

    def __enter__(self) -> Self:
        self.check()
        try:
            self._lock.acquire()
            handler = _RunLog(self.path / "run.log", encoding="utf-8")
        except OSError as error:
            self._lock.release()
            raise RunError(f"cannot write to {self.path}: {error.strerror}.") from None
        self._handler = handler
        handler.setFormatter(VisibleFormatter("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger("fedgru").addHandler(handler)
        logging.getLogger("fedgru").setLevel(logging.INFO)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.checkpoints.wait()
                self._events.close()
            else:
                self._record_end(error)
        finally:
            assert self._handler is not None, "left without being entered"
            logging.getLogger("fedgru").removeHandler(self._handler)
            with suppress(OSError):  # closing writes what could not be written before
                self._handler.close()
            self._lock.release()

    def _record_end(self, error: BaseException) -> None:
        """Write how the run ended, as far as the disk permits."""
        message = str(error) or type(error).__name__
        stopped = isinstance(error, KeyboardInterrupt | Interrupted)
        for act in (
            self.checkpoints.wait,
            self._events.close,
            lambda: logger.error("%s", message, exc_info=None if stopped else error),
            lambda: self._end_as("interrupted" if stopped else "failed", message),
        ):
            with suppress(OSError):
                act()

    def _end_as(self, status: str, message: str) -> None:
        if self._trains and self.facts().get("status") == "running":
            self.write_facts({"status": status, "error": message})

    def begin_again(self, checkpoint: Checkpoint | None) -> None:
        """Return the folder to its state when a Checkpoint was written, to resume from there.

        An evaluation or audit is removed: after the resumed training another round can be best.

        Args:
            checkpoint: Checkpoint, or None to begin before round 0.
        """
        self._trains = True
        rows = () if checkpoint is None else checkpoint.rows
        for name in ("train", "val", "eval"):
            if (self.path / name).exists():
                with naming(self.path / name):
                    shutil.rmtree(self.path / name)
        for name in (*_OF_THE_BEST, "last.npz"):
            with naming(self.path / name):
                (self.path / name).unlink(missing_ok=True)
        for name, cells in (("metrics.csv", tables.metric_cells), ("times.csv", tables.time_cells)):
            (self.path / name).unlink(missing_ok=True)
            if rows:
                write_csv(self.path / name, [cells(i, *row) for i, row in enumerate(rows)])
        (self.path / "faults.csv").unlink(missing_ok=True)
        if checkpoint is not None:
            self.record_faults(checkpoint.faults)
        for round_num, (row, _) in enumerate(rows):
            self._events.write(row, round_num)
        facts = {name: value for name, value in self.facts().items() if name != "error"}
        resumed = [*facts.get("resumed", []), {"at": order.now(), "after_round": len(rows) - 1}]
        write_json(self.path / "run.json", facts | {"status": "running", "resumed": resumed})

    def finish(self, result: TrainResult) -> None:
        """Write the weights of a TrainResult, mark the run as done, remove its checkpoints."""
        self.checkpoints.wait()
        self.save_weights("best", result.best.weights, result.best.round_num)
        self.save_weights("last", result.last.weights, result.last.round_num)
        simulated = result.last.simulated
        self.write_facts(
            {
                "status": "done",
                "why": result.why,
                "rounds": result.last.round_num,
                "best_round": result.best.round_num,
                "best_value": result.best_value,
                "faults": dict(Counter(why for _, _, why in result.faults)),
                **({} if simulated is None else {"simulated_hours": simulated.hours}),
            }
        )
        self.checkpoints.remove()

    def status(self) -> str | None:
        """Return "running", "interrupted", "failed" or "done"; None if there is no run.json.

        A killed process leaves "running" in run.json. So a run that no process writes to counts
        as interrupted.
        """
        status: str | None = self.facts().get("status")
        return "interrupted" if status == "running" and not is_locked(self.path) else status

    @property
    def kind(self) -> RunKind:
        """The RunKind.

        Raises:
            RunError: if run.json is damaged, or names a kind that this fedgru does not know.
        """
        name = self.facts().get("kind", FEDERATED.name)  # the first runs had no kind
        if not isinstance(name, str) or name not in KINDS:
            raise RunError(
                f"{self.path / 'run.json'} has the kind {name!r}, expected one of "
                f"{', '.join(KINDS)}. It is damaged, or a newer fedgru made the run."
            )
        return KINDS[name]

    def overview(self) -> dict[str, Any]:
        """Return a dict of what a list of runs shows; None for what is not known (yet).

        A run with damaged files is listed too; its `status` is the error.
        """
        shown: dict[str, Any] = dict.fromkeys(
            (
                *("kind", "data", "task", "users", "status", "seed", "rounds", "best_round"),
                "started",
                *_LISTED_METRICS,
            )
        )
        try:
            facts, test = self.facts(), self.test()
            shown |= {key: facts[key] for key in shown if key in facts}
            shown |= {"kind": self.kind.name, "status": self.status()}
            settings = self.settings()
            shown |= {"seed": settings.loop.seed, "task": settings.task_name}
            shown |= {key: test[key] for key in _LISTED_METRICS if key in test}
        except FedgruError as error:
            shown["status"] = str(error)
        return {"run": self.path.name} | shown

    def facts(self) -> dict[str, Any]:
        """Return run.json as a dict; empty if there is none yet.

        Raises:
            RunError: if the file is damaged.
        """
        return order.read_json(self._file(order.FACTS), shapes.RUN)

    def pseudonyms(self, client_ids: Iterable[str]) -> list[str]:
        """Return other names of clients, which cannot be led back without this run's run.json.

        The same client has the same name in all that is made of this run, and another in others.
        """
        salt = str(self.facts().get("salt") or self._salt).encode()
        digests = (hmac.new(salt, name.encode(), "sha256").hexdigest() for name in client_ids)
        return [f"client-{digest[:10]}" for digest in digests]

    def write_facts(self, facts: dict[str, Any]) -> None:
        """Add to run.json."""
        write_json(self.path / "run.json", self.facts() | facts)

    def record_round(self, round_num: int, row: Row, seconds: dict[str, float]) -> None:
        """Append a round to metrics.csv, times.csv and the TensorBoard files.

        Args:
            round_num: int.
            row: {"split/metric/average": value}, the same keys in each round, except that round 0
                has no train metrics.
            seconds: {"train": s, "val": s}.
        """
        append_csv(self.path / "metrics.csv", tables.metric_cells(round_num, row, seconds))
        append_csv(self.path / "times.csv", tables.time_cells(round_num, row, seconds))
        self._events.write(row, round_num)

    def rounds(self) -> dict[str, Doubles]:
        """Return metrics.csv as {column: float64 [rounds + 1]}; empty if it has no rounds.

        An empty cell is NaN, such as the train metrics of round 0.

        Raises:
            RunError: if the file is damaged, or its rows are not rounds 0, 1, 2 ...
        """
        return self._read_rounds("metrics.csv", tables.read_rounds)

    def round_texts(self) -> dict[str, list[str]]:
        """Return metrics.csv as `rounds` does, but the cells as texts."""
        return self._read_rounds("metrics.csv", tables.read_round_texts)

    def simulated_hours(self, round_num: int) -> float | None:
        """Return the simulated hours that the rounds up to one took; None without simulated time.

        Raises:
            RunError: as `rounds`.
        """
        hours = self.rounds().get("train/hours/simulated")
        return None if hours is None else float(hours[round_num])

    def epsilon(self, round_num: int) -> float | None:
        """Return the epsilon after a round; None without differential privacy.

        Raises:
            RunError: as `rounds`.
        """
        found = self.rounds().get("train/epsilon/dp")
        return None if found is None else float(found[round_num])

    def times(self) -> dict[str, Doubles]:
        """Return times.csv as `rounds` does: seconds, `train_s` and `val_s`."""
        return self._read_rounds("times.csv", tables.read_rounds)

    def _read_rounds(
        self, name: str, read: Callable[[Path], dict[str, _Cells]]
    ) -> dict[str, _Cells]:
        try:
            return read(self._file(name))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise RunError(f"{self.path / name} is damaged: {error}.") from error

    def record_faults(self, faults: Iterable[tuple[int, str, str]]) -> None:
        """Append (round_num, client_id, why) of each fault to faults.csv."""
        for fault in faults:
            cells = dict(zip(("round", "client_id", "why"), fault, strict=True))
            append_csv(self.path / "faults.csv", cells)

    def save_weights(self, which: str, weights: Weights, round_num: int) -> None:
        """Write best.npz or last.npz, whole or not at all."""
        arrays.write_weights(self.path / f"{which}.npz", weights, round_num)

    def refuse_larger(self, hidden_dim: int, gates_dim: int) -> None:
        """Raise a RunError if the weights cannot be of a model of this size; before it is made.

        Args:
            hidden_dim, gates_dim: as in ModelSpec, of the settings, which can be a stranger's.
        """
        file = self._file("best.npz")
        size_bytes = 4 * hidden_dim * gates_dim  # of `recurrent`, one of the weights
        if file.exists() and file.stat().st_size < size_bytes:
            raise RunError(
                f"{file} is damaged, or not of this run: it has {file.stat().st_size:,} bytes, the "
                f"model of {self.path / 'config.toml'} at least {size_bytes:,}."
            )

    def load_weights(self, which: str = "best", like: Weights | None = None) -> tuple[Weights, int]:
        """Return (weights, round_num) from best.npz or last.npz.

        Args:
            which: "best" or "last".
            like: name -> float32 array, whose names and shapes the weights must have; None
                takes any.

        Raises:
            RunError: if the run has none, the file is damaged, or its weights do not fit `like`.
        """
        file = self._file(f"{which}.npz")
        try:
            return arrays.read_weights(file, like)
        except FileNotFoundError:
            raise RunError(
                f"run {self.path} has no {file.name}: no round of it was finished. "
                f"Details: {self.path / 'run.log'}"
            ) from None
        except ValueError as error:
            raise RunError(
                f"{file} is damaged: {error}. Train again with: fedgru train --config "
                f"{self.path / 'config.toml'}"
            ) from error

    def save_test(
        self, report: dict[str, Any], table: Mapping[str, Any], predictions: Columns
    ) -> None:
        """Write the evaluation and TensorBoard's eval/; replaces an earlier evaluation.

        Args:
            report: dict, from `evaluate.full_report`, and the `round` of the weights.
            table: {column: list or array}, one entry per client.
            predictions: {column: array}, from `evaluate.prediction_table`.
        """
        write_parquet(self.path / "predictions.parquet", predictions)
        write_table(self.path / "clients.csv", table)
        if (self.path / "eval").exists():
            shutil.rmtree(self.path / "eval")
        self._events.write(report, report["round"])
        write_json(self.path / "test.json", report)  # last: if it exists, the rest does too

    def save_summed_test(self, report: dict[str, Any], table: Mapping[str, Any]) -> None:
        """Write an evaluation without predictions, of which only sums are known."""
        write_table(self.path / "clients.csv", table)
        if (self.path / "eval").exists():
            shutil.rmtree(self.path / "eval")
        self._events.write(report, report["round"])
        write_json(self.path / "test.json", report)

    def save_fine_tuned(self, table: Mapping[str, Any] | None) -> None:
        """Write clients-fine-tuned.csv, a table as clients.csv; None removes an earlier one."""
        file = self.path / "clients-fine-tuned.csv"
        if table is None:
            file.unlink(missing_ok=True)
        else:
            write_table(file, table)

    def save_audit(self, report: dict[str, Any]) -> None:
        """Write audit.json; concepts of an earlier audit of the same round stay in it."""
        earlier = self.audit()
        if earlier.get("round") == report["round"] and isinstance(earlier.get("concepts"), dict):
            concepts = earlier["concepts"] | report["concepts"]
            report = report | {"concepts": concepts}
        write_json(self.path / "audit.json", report)

    def save_attacks(self, report: dict[str, Any]) -> None:
        """Write attacks.json; other attacks of the same round stay in it."""
        earlier = self.attacks()
        if earlier.get("round") == report["round"]:
            report = earlier | report
        write_json(self.path / "attacks.json", report)

    def attacks(self) -> dict[str, Any]:
        """Return attacks.json as a dict; empty if the run has not been attacked."""
        return order.read_json(self._file("attacks.json"), shapes.ATTACKS)

    def test(self) -> dict[str, Any]:
        """Return test.json as a dict; empty if the run has not been evaluated."""
        return order.read_json(self._file("test.json"), shapes.TEST)

    def predictions(self, columns: Sequence[str] | None = None) -> Columns:
        """Return predictions.parquet as {column: array}, see `evaluate.prediction_table`.

        Args:
            columns: which; None for all.

        Raises:
            RunError: if the run has not been evaluated, or the file is damaged.
        """
        file = self._evaluated("predictions.parquet")
        try:
            return arrays.read_predictions(file, columns)
        except ValueError as error:
            raise self._damaged(file) from error

    def client_table(self, name: str = "clients.csv") -> Columns:
        """Return clients.csv or clients-fine-tuned.csv as {column: array}: ids texts, else floats.

        Raises:
            RunError: if the run has not been evaluated, or the file is damaged.
        """
        file = self._evaluated(name)
        try:
            return tables.read_clients(file)
        except ValueError as error:
            raise self._damaged(file) from error

    def _evaluated(self, name: str) -> Path:
        if not self._file(name).exists():
            if not self.kind.has_check_ins:
                raise RunError(f"{self.path} has no {name}: its clients sent only sums.")
            raise RunError(f"{self.path} has no {name}: score it with: fedgru eval {self.path}")
        return self.path / name

    def _damaged(self, file: Path) -> RunError:
        return RunError(f"{file} is damaged. Make it again with: fedgru eval {self.path}")

    def audit(self) -> dict[str, Any]:
        """Return audit.json as a dict; empty if the run has not been audited."""
        return order.read_json(self._file("audit.json"), shapes.AUDIT)

    def settings(self) -> Settings:
        """Return the run's Settings."""
        return config.read_stored(self._file("config.toml"))


def _move_to_new(folder: Path, path: Path) -> Path:
    """Move a folder with files to a path, or to the first free one of path-2, path-3 ..."""
    candidate, number = path, 1
    while True:
        try:
            return folder.rename(candidate)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            number += 1
            candidate = path.with_name(f"{path.name}-{number}")


class _RunLog(logging.FileHandler):
    """A log file that raises its errors of writing, as the other files of the run folder do."""

    def handleError(self, record: logging.LogRecord) -> None:
        """See logging.Handler, whose method prints a traceback and continues."""
        with naming(self.baseFilename):
            raise
