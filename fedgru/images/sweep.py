"""The sweep over alpha: both heads on both hold-outs, and measurements that the paper lacks.

Source: Jia et al. 2018, section 4.4, figure 3. Added: counter-examples, fresh probes with their
floor and ceiling, and a choice of alpha that uses only the validation set.
"""

import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedgru.agnostic import probes
from fedgru.agnostic.objective import TradeOff
from fedgru.core import seeding
from fedgru.core.errors import ConfigError, Interrupted, RunError
from fedgru.core.jax_setup import num_threads
from fedgru.core.types import AnyArray, AnyInts, AnyPath, Floats
from fedgru.images import training as image_training
from fedgru.images.data import ImageData, ImageSet
from fedgru.images.folders import open_images
from fedgru.images.settings import ImageSettings, check_method
from fedgru.storage.files import write_text
from fedgru.storage.tables import write_csv

ORDINARY = "ordinary"  # alpha 0: no method has any effect there, so all methods share it
CEILING = "ceiling"  # probes on the raw images; no training
FAST_PROBES = ("logistic", "knn")  # for numbers that are not a headline, such as validation


@dataclass(frozen=True)
class Point:
    """One training of a sweep; with method CEILING, one audit of the raw images."""

    method: str
    alpha: float
    seed: int


def plan(methods: Sequence[str], alphas: Sequence[float], seeds: Sequence[int]) -> list[Point]:
    """Return the Points of a sweep, seed by seed, so that a stopped sweep has all alphas.

    >>> [(p.method, p.alpha) for p in plan(["hsic", "leace"], [0.0, 0.5], [0])]
    [('ceiling', 0.0), ('ordinary', 0.0), ('hsic', 0.5), ('leace', 0.5)]
    """
    points = []
    for seed in seeds:
        points.append(Point(CEILING, 0.0, seed))
        if 0.0 in alphas:
            points.append(Point(ORDINARY, 0.0, seed))
        points += [Point(m, a, seed) for a in alphas if a > 0 for m in methods]
    return points


def check_alphas(alphas: Iterable[float]) -> None:
    """Raise a ConfigError for an alpha outside 0 to 1."""
    for alpha in alphas:
        if not 0 <= alpha <= 1:
            raise ConfigError(f"`alpha` is {alpha:g}, expected 0 to 1.")


def measure_point(settings: ImageSettings, point: Point) -> dict[str, Any]:
    """Train and measure one Point; see `measure` for the keys."""
    data = open_images(settings, point.seed)
    if point.method == CEILING:
        return measure_ceiling(settings, data, point.seed)
    method = check_method("reversal" if point.method == ORDINARY else point.method, settings)
    network = image_training.train(
        settings, data, method, TradeOff("alpha", point.alpha), point.seed
    )
    return measure(settings, data, network, point.seed)


def measure(
    settings: ImageSettings, data: ImageData, network: image_training.Network, seed: int
) -> dict[str, Any]:
    """Return {name: accuracy}: the measurements of a trained network, 0 to 1.

    target_on_target, target_on_context, context_on_target, context_on_context: a head on a
        hold-out. Matching classes count as the same where the true class of the other kind is not
        known, as in the paper.
    counter: the target head on counter-examples; None without them.
    probe: the best fresh probe on the representation, noise included.
    probe_logistic, probe_mlp, probe_knn: each probe; probe_control: the best probe's control.
    floor: always the commonest context.
    noiseless: the best fresh probe on the representation without the noise of a bottleneck: what
        somebody could recover who has the weights, or can ask many times.
    val_target, val_probe: on the validation set, to choose alpha; None if it has no contexts.
    """
    sets = data.sets

    def served(name: str) -> Floats:
        return network.represent(sets[name].images, seeding.rng(seed, f"noise {name}"))

    z = {name: served(name) for name in sets if name not in ("train", "context_train")}
    row: dict[str, Any] = {}
    for head, scores_of in (
        ("target", network.target_scores),
        ("context", network.context_scores),
    ):
        for name, short in (("holdout", "target"), ("context_holdout", "context")):
            own = getattr(sets[name], head)
            labels = own if (own >= 0).all() else np.maximum(sets[name].target, sets[name].context)
            row[f"{head}_on_{short}"] = _accuracy(scores_of(z[name]), labels)
    row["counter"] = None
    if "counter" in sets:
        row["counter"] = _accuracy(network.target_scores(z["counter"]), sets["counter"].target)
    examples = {name: _examples(sets[name], z[name]) for name in ("probe_fit", "probe_test", "val")}
    probe_seeds = tuple(range(settings.probe_seeds))
    fit, test = examples["probe_fit"], examples["probe_test"]
    audit = probes.audit("context", fit, test, seeds=probe_seeds)
    best = audit.worst("representation")
    row |= {"probe": best.accuracy, "probe_control": best.control, "floor": audit.floor}
    row |= {f"probe_{result.probe}": result.accuracy for result in audit.readings}
    row["noiseless"] = best.accuracy
    if network.noise:
        bare_fit, bare_test = (
            _examples(sets[name], network.mean_representation(sets[name].images))
            for name in ("probe_fit", "probe_test")
        )
        noiseless = probes.audit("context", bare_fit, bare_test, probes=FAST_PROBES, controls=False)
        row["noiseless"] = noiseless.worst("representation").accuracy
    row |= {"val_target": None, "val_probe": None}
    if (sets["val"].context >= 0).all():
        row["val_target"] = _accuracy(network.target_scores(z["val"]), sets["val"].target)
        on_val = probes.audit("context", fit, examples["val"], probes=FAST_PROBES, controls=False)
        row["val_probe"] = on_val.worst("representation").accuracy
    return row


def measure_ceiling(settings: ImageSettings, data: ImageData, seed: int) -> dict[str, Any]:
    """Return {"ceiling", "floor"}: accuracy of the best fresh probe on raw images, and without."""
    fit, test = (
        _examples(data.sets[name], _flat(data.sets[name].images, settings))
        for name in ("probe_fit", "probe_test")
    )
    seeds = tuple(range(settings.probe_seeds))
    audit = probes.audit("context", fit, test, seeds=seeds, controls=False)
    return {"ceiling": audit.worst("representation").accuracy, "floor": audit.floor}


def _flat(images: AnyArray, settings: ImageSettings) -> Floats:
    images = image_training.centre_crop(images, settings.crop_size or settings.image_size)
    return images.reshape(len(images), -1) / np.float32(255)


def _examples(image_set: ImageSet, representation: Floats) -> probes.Examples:
    return probes.Examples({"representation": representation}, image_set.context, image_set.groups)


def _accuracy(scores: AnyArray, labels: AnyInts) -> float:
    return float((np.asarray(scores).argmax(1) == labels).mean())


class SweepFolder:
    """The folder of a sweep: settings.json, and results.jsonl with one line per finished Point."""

    def __init__(self, path: AnyPath, settings: ImageSettings) -> None:
        """Open the folder, or make it.

        Raises:
            RunError: if it was made with other settings, or cannot be written or read.
        """
        self.path, self._lock = Path(path), threading.Lock()
        self.results = self.path / "results.jsonl"
        wanted = settings.model_dump()
        file = self.path / "settings.json"
        try:  # not by `writing_folder`: this folder grows; it exists once settings.json is written
            self.path.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                write_text(file, json.dumps(wanted, indent=2) + "\n")
        except OSError as error:
            raise RunError(f"cannot write to {self.path}: {error.strerror}.") from None
        try:
            found = json.loads(file.read_text("utf-8"))
        except ValueError:
            raise RunError(f"{file} is damaged. Give another `name`.") from None
        for name, value in wanted.items():
            if found.get(name) != value:
                raise RunError(
                    f"{self.path} was made with `{name}` {found.get(name)}, now "
                    f"it is {value}. Give another `name`, or the same settings to continue it."
                )

    def rows(self) -> list[dict[str, Any]]:
        """Return the finished rows, {"method", "alpha", "seed", ...} each.

        An incomplete last line, for example after a power failure, is removed from the file.

        Raises:
            RunError: if another line is damaged.
        """
        if not self.results.exists():
            return []
        content = self.results.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with open(self.results, "r+b") as stream:
                stream.truncate(len(whole))
        rows = []
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                rows.append(json.loads(line))
            except ValueError:
                raise RunError(
                    f"{self.results}, line {number}: it is not JSON. Remove the line to compute "
                    "it again."
                ) from None
        return rows

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; it is on disk when this returns."""
        with self._lock, open(self.results, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def write_csv(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a table of dicts, completely or not at all."""
        write_csv(self.path / name, rows)


def run(
    settings: ImageSettings,
    folder: SweepFolder,
    methods: Sequence[str],
    alphas: Sequence[float],
    seeds: Sequence[int],
    threads: int | None = None,
    on_done: Callable[[int, int], object] | None = None,
) -> list[dict[str, Any]]:
    """Compute the missing Points of a sweep.

    Args:
        settings: ImageSettings.
        folder: SweepFolder.
        methods: names, see `fedgru.config.methods.parse_method`.
        alphas: floats, 0 to 1.
        seeds: ints.
        threads: number of Points computed in parallel; one per core if None.
        on_done: called with (number of Points done, number of all) at the start and after each.

    Returns:
        list of rows, only those of this sweep, in the order of `plan`.

    Raises:
        ConfigError: for an impossible alpha or method.
        Interrupted: on Ctrl-C or SIGTERM; the message says how to continue.
    """
    check_alphas(alphas)
    for method in methods:
        check_method(method, settings)
    points = plan(methods, alphas, seeds)
    done = {Point(r["method"], r["alpha"], r["seed"]): r for r in folder.rows()}
    missing = [point for point in points if point not in done]
    if on_done is not None:
        on_done(len(points) - len(missing), len(points))

    def work(point: Point) -> tuple[Point, dict[str, Any]]:
        row = vars(point) | measure_point(settings, point)
        folder.add(row)
        return point, row

    from threadpoolctl import threadpool_limits

    pool = ThreadPoolExecutor(min(num_threads(threads), max(len(missing), 1)))
    one_each = threadpool_limits(1)  # BLAS must use one thread: the trainings share the cores
    try:
        for future in as_completed([pool.submit(work, point) for point in missing]):
            point, row = future.result()
            done[point] = row
            if on_done is not None:
                on_done(sum(p in done for p in points), len(points))
    except KeyboardInterrupt as error:
        raise Interrupted(
            f". {folder.path} keeps the finished trainings; the same command continues from there.",
            error,
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
        one_each.restore_original_limits()
    return [done[point] for point in points]


def summarise(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> list[dict[str, Any]]:
    """Return one dict for each method and alpha: mean and standard deviation over seeds.

    Args:
        rows: from `run`.
        methods: names; all methods share the trainings at alpha 0.

    Returns:
        list of {"method", "alpha", "seeds", "<name>", "<name>_sd", ...}. The standard deviation
        divides by n - 1, and is 0 for one seed. `ceiling` belongs to the raw images.
    """
    ceilings = [row["ceiling"] for row in rows if row["method"] == CEILING]
    trained = [row for row in rows if row["method"] != CEILING]
    table = []
    for method in methods:
        mine = [row for row in trained if row["method"] in (method, ORDINARY)]
        for alpha in sorted({row["alpha"] for row in mine}):
            group = [row for row in mine if row["alpha"] == alpha]
            line: dict[str, Any] = {"method": method, "alpha": alpha, "seeds": len(group)}
            for name in group[0]:
                if name in ("method", "alpha", "seed"):
                    continue
                values = [row[name] for row in group]
                known = None not in values
                line[name] = float(np.mean(values)) if known else None
                spread = float(np.std(values, ddof=1)) if known and len(values) > 1 else 0.0
                line[f"{name}_sd"] = spread if known else None
            line["ceiling"] = float(np.mean(ceilings))
            table.append(line)
    return table


def choose_alpha(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return one method's preferred line, by the validation set only; None without contexts there.

    It has the largest validation accuracy of the target head, minus the best validation probe's
    accuracy above a half. In the validation set each target is equally often on each context.
    """
    scored = [line for line in lines if line["val_target"] is not None]
    if not scored:
        return None
    return max(scored, key=lambda line: line["val_target"] - max(line["val_probe"] - 0.5, 0.0))
