"""The run folder: what was asked, what happened, what came out.

config.toml    every setting, resolved; `fedgru train --config` takes it as it is
run.json       versions, data fingerprint, coverage, unknown rates, how it ended
metrics.csv    one row per round; the same seed gives the same bytes
times.csv      seconds per round
run.log        what happened when, and tracebacks
best.npz, last.npz   weights (no pickle)
test.json, clients.csv   the evaluation, overall and per client
predictions.parquet      the evaluation, target by target
clients-fine-tuned.csv   as clients.csv, after `fedgru eval --fine-tune`
audit.json     what fresh probes read from the representation, after `fedgru audit`
train/, val/, eval/      TensorBoard event files
"""

import csv
import io
import json
import logging
import os
import platform
import shutil
import time
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np

from fedgru import __version__, config
from fedgru.errors import FedgruError, RunError

PACKAGES = (
    *("jax", "jaxlib", "numpy", "pandas", "scikit-learn", "keras", "tensorflow"),
    "tensorflow-federated",  # in an environment of its own
)
_STAMP = len("2031-05-02-184500-")  # what stands before a run's --name in its folder's name
_LISTED_METRICS = ("test/acc@1/micro", "test/loss/micro")
TENSORBOARD_TAGS = {"loss": "epoch_loss", "acc@1": "epoch_sparse_categorical_accuracy"}

logger = logging.getLogger(__name__)


class RunFolder:
    """One run's folder, open for writing while the run lasts.

    Use as a context manager while something is done with it: what is logged inside goes to
    run.log, what goes wrong too, and a run that was not done by then has failed.
    """

    def __init__(self, path):
        self.path = Path(path)
        self._writers = {}
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
        started = datetime.now(UTC).isoformat(timespec="microseconds")
        facts = {"started": started} | facts | {"versions": _versions(), "status": "running"}
        stem = f"{time.strftime('%Y-%m-%d-%H%M%S')}-{settings.loop.name}"
        run = None
        try:
            Path(log_dir).mkdir(parents=True, exist_ok=True)
            run = cls(_make_new(Path(log_dir) / stem))
            (run.path / "config.toml").write_text(config.dump(settings), "utf-8")
            run.write_facts(facts)
            run._trains = True
        except OSError as error:
            if run is not None:
                shutil.rmtree(run.path, ignore_errors=True)
            raise RunError(
                f"cannot write to {error.filename or log_dir}: {error.strerror}. Choose another "
                "folder with --log-dir."
            ) from None
        return run

    def __enter__(self):
        self._handler = logging.FileHandler(self.path / "run.log", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger("fedgru").addHandler(self._handler)
        logging.getLogger("fedgru").setLevel(logging.INFO)
        return self

    def __exit__(self, kind, error, _):
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
        if error is not None:
            message = str(error) or kind.__name__
            logger.error("%s", message, exc_info=error)
            if self._trains and self.facts().get("status") == "running":
                self.write_facts({"status": "failed", "error": message})
        logging.getLogger("fedgru").removeHandler(self._handler)
        self._handler.close()

    @property
    def kind(self):
        """ "federated", or which baseline the run is."""
        return self.facts().get("kind", "federated")

    def overview(self):
        """Return a dict of what a list of runs shows; None for what is not known (yet).

        A run whose files are damaged is listed all the same, `status` saying what is wrong.
        """
        shown = dict.fromkeys(
            ("kind", "data", "status", "seed", "rounds", "best_round", "started", *_LISTED_METRICS)
        )
        try:
            facts, test = self.facts(), self.test()
            shown |= {key: facts[key] for key in shown if key in facts} | {"kind": self.kind}
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
        return self._read_json("run.json")

    def _read_json(self, name):
        file = self.path / name
        try:
            found = json.loads(file.read_text("utf-8")) if file.exists() else {}
        except ValueError as error:
            raise RunError(f"{file} is damaged, it is not JSON: {error}.") from None
        if not isinstance(found, dict):
            raise RunError(f"{file} is damaged, it is no JSON object.")
        return found

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
        _append_csv(self.path / "metrics.csv", {"round": round_num} | row)
        _append_csv(
            self.path / "times.csv",
            {"round": round_num} | {f"{name}_s": f"{s:.3f}" for name, s in seconds.items()},
        )
        self.write_scalars(row, round_num)

    def write_scalars(self, row, round_num):
        """Write metrics to TensorBoard, each split into its own folder.

        `loss` and `acc@1` over check-ins get the tags of Keras' own callback, as in the
        reference notebook; all others their metric's name and average, acc_at_5/macro for
        acc@5/macro because a tag cannot hold an @.
        """
        from tensorboardX import SummaryWriter

        for key, value in row.items():
            split, *rest = key.split("/")
            if value is None or len(rest) != 2:
                continue
            name, average = rest
            tag = f"{name.replace('@', '_at_')}/{average}"
            if average == "micro":
                tag = TENSORBOARD_TAGS.get(name, tag)
            folder = "eval" if split == "test" else split
            if folder not in self._writers:
                self._writers[folder] = SummaryWriter(str(self.path / folder))
            self._writers[folder].add_scalar(tag, value, round_num)
        for writer in self._writers.values():
            writer.flush()

    def save_weights(self, which, weights, round_num):
        """Write best.npz or last.npz, whole or not at all."""
        file = self.path / f"{which}.npz"
        part = file.with_name(f".{which}.part")
        with open(part, "wb") as stream:
            np.savez(stream, round_num=np.int64(round_num), **weights)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)

    def load_weights(self, which="best"):
        """Return (weights, round_num) from best.npz or last.npz.

        Raises:
            RunError: if the run has none, or the file is damaged.
        """
        file = self.path / f"{which}.npz"
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            raise RunError(
                f"run {self.path} has no {file.name}: no round of it was finished. "
                f"Details: {self.path / 'run.log'}"
            ) from None
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                weights = {name: arrays[name] for name in arrays.files}
            return weights, int(weights.pop("round_num"))
        except Exception as error:  # what numpy and zipfile raise depends on the damaged byte
            raise RunError(
                f"{file} is damaged: it cannot be read as weights. Train again with: "
                f"fedgru train --config {self.path / 'config.toml'}"
            ) from error

    def save_test(self, report, table, predictions):
        """Write the evaluation and TensorBoard's eval/; replaces an earlier evaluation.

        Args:
            report: dict, from `evaluation.full_report`, and the `round` of the weights.
            table: {column: list}, one entry per client.
            predictions: {column: array}, from `evaluation.prediction_table`.
        """
        write_parquet(self.path / "predictions.parquet", predictions)
        write_json(self.path / "test.json", report)
        write_table(self.path / "clients.csv", table)
        if (self.path / "eval").exists():
            shutil.rmtree(self.path / "eval")
        self.write_scalars(report, report["round"])

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
        if earlier.get("round") == report["round"]:
            concepts = earlier["concepts"] | report["concepts"]
            report = report | {"concepts": concepts}
        write_json(self.path / "audit.json", report)

    def test(self):
        """Return test.json as a dict; empty if the run has not been evaluated."""
        return self._read_json("test.json")

    def predictions(self, columns=None):
        """Return predictions.parquet as {column: array}, see `evaluation.prediction_table`.

        Args:
            columns: which; None for all.

        Raises:
            RunError: if the run has not been evaluated, or the file is damaged.
        """
        import pyarrow.parquet

        file = self._evaluated("predictions.parquet")
        try:
            table = pyarrow.parquet.read_table(file, columns=columns)
        except (OSError, pyarrow.ArrowException) as error:
            raise self._damaged(file) from error
        return {name: table[name].to_pandas().to_numpy() for name in table.column_names}

    def client_table(self, name="clients.csv"):
        """Return clients.csv or clients-fine-tuned.csv as {column: array}: ids texts, else floats.

        Raises:
            RunError: if the run has not been evaluated, or the file is damaged.
        """
        file = self._evaluated(name)
        with open(file, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        try:
            return {
                column: np.array([row[column] for row in rows])
                if column == "client_id"
                else np.array([float(row[column] or "nan") for row in rows])
                for column in (rows[0] if rows else {"client_id": None})
            }
        except (TypeError, ValueError) as error:
            raise self._damaged(file) from error

    def _evaluated(self, name):
        if not (self.path / name).exists():
            raise RunError(f"{self.path} has no {name}: score it with: fedgru eval {self.path}")
        return self.path / name

    def _damaged(self, file):
        return RunError(f"{file} is damaged. Make it again with: fedgru eval {self.path}")

    def audit(self):
        """Return audit.json as a dict; empty if the run has not been audited."""
        return self._read_json("audit.json")

    def settings(self):
        """Return the run's Settings."""
        return config.load(config_file=self.path / "config.toml")


def open_run(log_dir, name=None):
    """Open an existing run.

    Args:
        log_dir: folder of all runs.
        name: a run's path, its folder's name, the --name it was given, or None for the one
            started last.

    Raises:
        RunError: if there is no such run, or several go by that --name.
    """
    log_dir = Path(log_dir)
    if name is None:
        runs = all_runs(log_dir)
        if not runs:
            raise RunError(f"no run in {log_dir}/. Make one with: fedgru train --features big")
        return runs[0]
    for path in (Path(name), log_dir / name):
        if (path / "run.json").is_file():
            return RunFolder(path)
    named = [run for run in all_runs(log_dir) if run.path.name[_STAMP:] == name]
    if len(named) > 1:
        raise RunError(
            f"{len(named)} runs are called {name}: "
            f"{', '.join(run.path.name for run in named)}. Give one of these names."
        )
    if named:
        return named[0]
    raise RunError(
        f"no run {name}: neither {name} nor {log_dir / name} is a folder with a run.json, and no "
        f"run in {log_dir}/ was given that --name."
    )


def all_runs(log_dir):
    """Return the RunFolders in a folder of runs, started last first."""
    runs = [RunFolder(file.parent) for file in Path(log_dir).glob("*/run.json")]
    return sorted(runs, key=_started, reverse=True)


def remove_runs(runs, log_dir):
    """Delete runs, whole folders.

    Args:
        runs: RunFolders.
        log_dir: folder of all runs; a run that does not lie right in it is not touched.

    Raises:
        RunError: before any is deleted, if one lies elsewhere or is being written; or if a folder
            cannot be deleted.
    """
    for run in runs:
        if run.path.resolve().parent != Path(log_dir).resolve():
            raise RunError(f"{run.path} does not lie in {log_dir}/: delete it yourself.")
    for run in runs:
        try:
            shutil.rmtree(run.path)
        except OSError as error:
            raise RunError(f"cannot delete {error.filename}: {error.strerror}.") from None


def _started(run):
    """When a run was started, as a text that sorts; a run whose run.json is damaged comes first."""
    try:
        return run.facts().get("started", "")
    except RunError as error:
        logger.warning("passed over: %s", error)
        return ""


def write_json(file, value):
    """Write a value as JSON, whole or not at all; NaN becomes null."""
    _write_whole(file, json.dumps(without_nan(value), indent=2, allow_nan=False) + "\n")


def write_csv(file, rows):
    """Write a table of dicts with the same keys, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    _write_whole(file, text.getvalue())


def write_table(file, table):
    """Write a table {column: list} as CSV, whole or not at all."""
    rows = zip(*table.values(), strict=True)
    write_csv(file, [dict(zip(table, row, strict=True)) for row in rows])


def write_parquet(file, columns):
    """Write a table {column: array} as Parquet, whole or not at all; texts as dictionaries."""
    import pyarrow
    import pyarrow.parquet

    arrays = {
        name: pyarrow.array(values).dictionary_encode()
        if values.dtype == object
        else pyarrow.array(values)
        for name, values in columns.items()
    }
    part = file.with_name(f".{file.name}.part")
    pyarrow.parquet.write_table(pyarrow.table(arrays), part)
    part.replace(file)


def without_nan(value):
    """Return the value with each NaN replaced by None, which JSON can hold."""
    if isinstance(value, dict):
        return {key: without_nan(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and value != value else value


def _make_new(path):
    """Make the folder, or the first of path-2, path-3 ... that does not exist."""
    candidate, number = path, 1
    while True:
        try:
            candidate.mkdir()
            return candidate
        except FileExistsError:
            number += 1
            candidate = path.with_name(f"{path.name}-{number}")


def _write_whole(file, text):
    part = file.with_name(f".{file.name}.part")
    part.write_text(text, "utf-8")
    part.replace(file)


def _append_csv(file, row):
    columns = list(row)
    if file.exists():
        with open(file, newline="", encoding="utf-8") as stream:
            columns = next(csv.reader(stream))
    with open(file, "a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        if stream.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


def _versions():
    """Of what is installed; a package that is not there is left out."""
    versions = {"fedgru": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
