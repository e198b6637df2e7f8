"""The run folder: what was asked, what happened, what came out.

config.toml    every setting, resolved; `fedgru train --config` takes it as it is
run.json       versions, data fingerprint, coverage, unknown rates, how it ended
metrics.csv    one row per round; the same seed gives the same bytes
times.csv      seconds per round
faults.csv     who dropped out of a round, or was kept out of its mean, and why; if anybody was
run.log        what happened when, and tracebacks
best.npz, last.npz   weights (no pickle)
test.json, clients.csv   the evaluation, overall and per client
predictions.parquet      the evaluation, target by target
clients-fine-tuned.csv   as clients.csv, after `fedgru eval --fine-tune`
audit.json     what fresh probes read from the representation, after `fedgru audit`
train/, val/, eval/      TensorBoard event files
checkpoints/   while the run is not done: what it needs to go on, see fedgru/runs/checkpoints.py
.lock          while a process writes here: its number
"""

import errno
import hashlib
import logging
import shutil
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from fedgru import config
from fedgru.core.errors import FedgruError, Interrupted, RunError
from fedgru.core.versions import installed_versions
from fedgru.runs import arrays, order, tables
from fedgru.runs.checkpoints import Checkpoints
from fedgru.runs.kinds import FEDERATED, KINDS
from fedgru.runs.tensorboard import EventFiles
from fedgru.storage.files import (
    naming,
    sync_folder,
    write_text,
)
from fedgru.storage.folders import scratch_folder
from fedgru.storage.locks import Lock, is_locked
from fedgru.storage.tables import append_csv, write_csv, write_json, write_parquet, write_table

_OF_THE_BEST = ("test.json", "predictions.parquet", "clients.csv", "clients-fine-tuned.csv")
_OF_THE_BEST += ("audit.json",)
_LISTED_METRICS = ("test/acc@1/micro", "test/loss/micro")

logger = logging.getLogger(__name__)


class RunFolder:
    """One run's folder, open for writing while the run lasts.

    Use as a context manager while something is done with it: no other process may then write
    to it, what is logged inside goes to run.log, what goes wrong too, and a run that was not done
    by then was interrupted, or has failed.

    Attributes:
        path: Path of the folder.
        checkpoints: Checkpoints.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.checkpoints = Checkpoints(self.path)
        self._events = EventFiles(self.path)
        self._lock = Lock(self.path)
        self._handler = None
        self._trains = False  # whether a failure is the run's own, not that of who reads it

    @classmethod
    def create(cls, log_dir, settings, facts):
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
            "status": "running",
        }
        stem = f"{time.strftime('%Y-%m-%d-%H%M%S')}-{settings.loop.name}"
        try:
            log_dir.mkdir(parents=True, exist_ok=True)
            # no `writing_folder`: its name is the first free one, known when it is moved there
            with scratch_folder(log_dir / "run") as scratch:
                new = scratch / "new"
                new.mkdir()
                write_text(new / "config.toml", toml)
                write_json(new / "run.json", facts)
                run = cls(_move_to_new(new, log_dir / stem))
            sync_folder(log_dir)
        except OSError as error:
            raise RunError(
                f"cannot write to {log_dir}: {error.strerror}. Choose another folder with "
                "--log-dir."
            ) from None
        run._trains = True
        return run

    def __enter__(self):
        try:
            self._lock.acquire()
            self._handler = _RunLog(self.path / "run.log", encoding="utf-8")
        except OSError as error:
            self._lock.release()
            raise RunError(f"cannot write to {self.path}: {error.strerror}.") from None
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger("fedgru").addHandler(self._handler)
        logging.getLogger("fedgru").setLevel(logging.INFO)
        return self

    def __exit__(self, kind, error, _):
        try:
            if error is None:
                self.checkpoints.wait()
                self._events.close()
            else:
                self._tell_of(error)
        finally:
            logging.getLogger("fedgru").removeHandler(self._handler)
            with suppress(OSError):  # of what could not be written before, either
                self._handler.close()
            self._lock.release()

    def _tell_of(self, error):
        """Write down how the run ended, as far as the disk lets us."""
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

    def _end_as(self, status, message):
        if self._trains and self.facts().get("status") == "running":
            self.write_facts({"status": status, "error": message})

    def begin_again(self, checkpoint):
        """Bring the folder to where it was when a Checkpoint was written, to train on from there.

        An evaluation or audit of what was the best round then is removed: it may not be the best
        any longer.

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

    def finish(self, result):
        """Write the weights of a TrainResult, and that the run is done; it needs no checkpoints."""
        self.checkpoints.wait()
        self.save_weights("best", result.best.weights, result.best.round_num)
        self.save_weights("last", result.last.weights, result.last.round_num)
        self.write_facts(
            {
                "status": "done",
                "why": result.why,
                "rounds": result.last.round_num,
                "best_round": result.best.round_num,
                "best_value": result.best_value,
                "faults": dict(Counter(why for _, _, why in result.faults)),
            }
        )
        self.checkpoints.remove()

    def status(self):
        """Return "running", "interrupted", "failed" or "done".

        Who was killed could not write that: a run that nobody writes to is not running.
        """
        status = self.facts().get("status")
        return "interrupted" if status == "running" and not is_locked(self.path) else status

    @property
    def kind(self):
        """The RunKind.

        Raises:
            RunError: if run.json is damaged, or names a kind that this fedgru does not know.
        """
        name = self.facts().get("kind", FEDERATED.name)  # the first runs did not say
        if not isinstance(name, str) or name not in KINDS:
            raise RunError(
                f"{self.path / 'run.json'} says that the run is of kind {name!r}, expected one of "
                f"{', '.join(KINDS)}. It is damaged, or a newer fedgru made the run."
            )
        return KINDS[name]

    def overview(self):
        """Return a dict of what a list of runs shows; None for what is not known (yet).

        A run whose files are damaged is listed all the same, `status` saying what is wrong.
        """
        shown = dict.fromkeys(
            ("kind", "data", "status", "seed", "rounds", "best_round", "started", *_LISTED_METRICS)
        )
        try:
            facts, test = self.facts(), self.test()
            shown |= {key: facts[key] for key in shown if key in facts}
            shown |= {"kind": self.kind.name, "status": self.status()}
            shown["seed"] = self.settings().loop.seed
            shown |= {key: test[key] for key in _LISTED_METRICS if key in test}
        except FedgruError as error:
            shown["status"] = str(error)
        return {"run": self.path.name} | shown

    def facts(self):
        """Return run.json as a dict; empty if there is none yet.

        Raises:
            RunError: if the file is damaged.
        """
        return order.read_json(self.path / order.FACTS)

    def write_facts(self, facts):
        """Add to run.json."""
        write_json(self.path / "run.json", self.facts() | facts)

    def record_round(self, round_num, row, seconds):
        """Append a round to metrics.csv, times.csv and the TensorBoard files.

        Args:
            round_num: int.
            row: {"split/metric/average": value}, the same keys each round but in round 0,
                which has no train metrics.
            seconds: {"train": s, "val": s}.
        """
        append_csv(self.path / "metrics.csv", tables.metric_cells(round_num, row, seconds))
        append_csv(self.path / "times.csv", tables.time_cells(round_num, row, seconds))
        self._events.write(row, round_num)

    def rounds(self):
        """Return metrics.csv as {column: float64 [rounds + 1]}; empty if it has no rounds.

        A cell that is empty is NaN, such as round 0's train metrics.

        Raises:
            RunError: if the file is damaged, or its rows are not rounds 0, 1, 2 ...
        """
        return self._read_rounds("metrics.csv", tables.read_rounds)

    def round_texts(self):
        """Return metrics.csv as `rounds` does, but each column as a list of its cells' texts."""
        return self._read_rounds("metrics.csv", tables.read_round_texts)

    def times(self):
        """Return times.csv as `rounds` does: seconds, `train_s` and `val_s`."""
        return self._read_rounds("times.csv", tables.read_rounds)

    def _read_rounds(self, name, read):
        try:
            return read(self.path / name)
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise RunError(f"{self.path / name} is damaged: {error}.") from error

    def record_faults(self, faults):
        """Append (round_num, client_id, why) of each fault to faults.csv."""
        for fault in faults:
            cells = dict(zip(("round", "client_id", "why"), fault, strict=True))
            append_csv(self.path / "faults.csv", cells)

    def save_weights(self, which, weights, round_num):
        """Write best.npz or last.npz, whole or not at all."""
        arrays.write_weights(self.path / f"{which}.npz", weights, round_num)

    def load_weights(self, which="best", like=None):
        """Return (weights, round_num) from best.npz or last.npz.

        Args:
            which: "best" or "last".
            like: name -> float32 array, whose names and shapes the weights must have; None
                takes any.

        Raises:
            RunError: if the run has none, the file is damaged, or its weights are not such.
        """
        file = self.path / f"{which}.npz"
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

    def save_test(self, report, table, predictions):
        """Write the evaluation and TensorBoard's eval/; replaces an earlier evaluation.

        Args:
            report: dict, from `evaluate.full_report`, and the `round` of the weights.
            table: {column: list}, one entry per client.
            predictions: {column: array}, from `evaluate.prediction_table`.
        """
        write_parquet(self.path / "predictions.parquet", predictions)
        write_table(self.path / "clients.csv", table)
        if (self.path / "eval").exists():
            shutil.rmtree(self.path / "eval")
        self._events.write(report, report["round"])
        write_json(self.path / "test.json", report)  # last: who finds it finds the rest

    def save_summed_test(self, report, table):
        """Write an evaluation of which no more than sums are known, as `save_test` does."""
        write_table(self.path / "clients.csv", table)
        if (self.path / "eval").exists():
            shutil.rmtree(self.path / "eval")
        self._events.write(report, report["round"])
        write_json(self.path / "test.json", report)

    def save_fine_tuned(self, table):
        """Write clients-fine-tuned.csv, a table as clients.csv; None removes an earlier one."""
        file = self.path / "clients-fine-tuned.csv"
        if table is None:
            file.unlink(missing_ok=True)
        else:
            write_table(file, table)

    def save_audit(self, report):
        """Write audit.json; concepts of an earlier audit of the same round stay beside the new."""
        earlier = self.audit()
        if earlier.get("round") == report["round"] and isinstance(earlier.get("concepts"), dict):
            concepts = earlier["concepts"] | report["concepts"]
            report = report | {"concepts": concepts}
        write_json(self.path / "audit.json", report)

    def test(self):
        """Return test.json as a dict; empty if the run has not been evaluated."""
        return order.read_json(self.path / "test.json")

    def predictions(self, columns=None):
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

    def client_table(self, name="clients.csv"):
        """Return clients.csv or clients-fine-tuned.csv as {column: array}: ids texts, else floats.

        Raises:
            RunError: if the run has not been evaluated, or the file is damaged.
        """
        file = self._evaluated(name)
        try:
            return tables.read_clients(file)
        except ValueError as error:
            raise self._damaged(file) from error

    def _evaluated(self, name):
        if not (self.path / name).exists():
            if not self.kind.has_check_ins:
                raise RunError(f"{self.path} has no {name}: its clients sent sums alone.")
            raise RunError(f"{self.path} has no {name}: score it with: fedgru eval {self.path}")
        return self.path / name

    def _damaged(self, file):
        return RunError(f"{file} is damaged. Make it again with: fedgru eval {self.path}")

    def audit(self):
        """Return audit.json as a dict; empty if the run has not been audited."""
        return order.read_json(self.path / "audit.json")

    def settings(self):
        """Return the run's Settings."""
        return config.load(config_file=self.path / "config.toml")


def _move_to_new(folder, path):
    """Move a folder that holds something to a path, or to the first free of path-2, path-3 ..."""
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
    """Raises what goes wrong in writing, as everywhere else in the run folder."""

    def handleError(self, record):
        """See logging.Handler; its own prints a traceback and goes on."""
        with naming(self.baseFilename):
            raise
