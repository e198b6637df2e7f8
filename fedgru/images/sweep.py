"""The sweep over alpha: both heads on both hold-outs, and what the paper lacks beside them.

Source: Jia et al. 2018, section 4.4, figure 3. Added: counter-examples, fresh probes with their
floor and ceiling, and a choice of alpha that looks at the validation set alone.
"""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedgru.agnostic import probes
from fedgru.agnostic.objective import TradeOff
from fedgru.core import seeding
from fedgru.core.errors import ConfigError, Interrupted, RunError
from fedgru.core.jax_setup import num_threads
from fedgru.images import training as image_training
from fedgru.images.folders import open_images
from fedgru.images.settings import check_method
from fedgru.storage.files import write_text
from fedgru.storage.tables import write_csv

ORDINARY = "ordinary"  # alpha 0: no method has any effect there, so all share its trainings
CEILING = "ceiling"  # probes on the raw images; no training
FAST_PROBES = ("logistic", "knn")  # for the validation set, where no headline is read


@dataclass(frozen=True)
class Point:
    """One training of a sweep, or with method CEILING one audit of the raw images."""

    method: str
    alpha: float
    seed: int


def plan(methods, alphas, seeds):
    """Return the Points of a sweep, repeats outermost, so that a stopped sweep has all alphas.

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


def check_alphas(alphas):
    """Refuse an alpha outside 0 to 1."""
    for alpha in alphas:
        if not 0 <= alpha <= 1:
            raise ConfigError(f"`alpha` is {alpha:g}, expected 0 to 1.")


def measure_point(settings, point):
    """Train and measure one Point; see `measure` for the keys."""
    data = open_images(settings, point.seed)
    if point.method == CEILING:
        return measure_ceiling(settings, data, point.seed)
    method = check_method("reversal" if point.method == ORDINARY else point.method, settings)
    network = image_training.train(
        settings, data, method, TradeOff("alpha", point.alpha), point.seed
    )
    return measure(settings, data, network, point.seed)


def measure(settings, data, network, seed):
    """Return {name: value}: how a trained network does, accuracies from 0 to 1.

    target_on_target, target_on_context, context_on_target, context_on_context: a head on a
        hold-out. Classes that go together count as the same, as in the paper, where the truth of
        the other kind is not known.
    counter: the target head on counter-examples; None without them.
    probe: of the best fresh probe on the representation as served, noise included;
    probe_logistic, probe_mlp, probe_knn: of each; probe_control: of the best one's control.
    floor: of always naming the commonest context.
    noiseless: of the best fresh probe on the representation without the noise of a bottleneck:
        what one could read who gets at the weights, or may ask again and again.
    val_target, val_probe: on the validation set, to choose by; None where it has no contexts.
    """
    sets = data.sets

    def served(name):
        return network.represent(sets[name].images, seeding.rng(seed, f"noise {name}"))

    z = {name: served(name) for name in sets if name not in ("train", "context_train")}
    row = {}
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
    row |= {f"probe_{reading.probe}": reading.accuracy for reading in audit.readings}
    row["noiseless"] = best.accuracy
    if network.noise:
        bare = [
            _examples(sets[name], network.mean_representation(sets[name].images))
            for name in ("probe_fit", "probe_test")
        ]
        noiseless = probes.audit("context", *bare, probes=FAST_PROBES, controls=False)
        row["noiseless"] = noiseless.worst("representation").accuracy
    row |= {"val_target": None, "val_probe": None}
    if (sets["val"].context >= 0).all():
        row["val_target"] = _accuracy(network.target_scores(z["val"]), sets["val"].target)
        on_val = probes.audit("context", fit, examples["val"], probes=FAST_PROBES, controls=False)
        row["val_probe"] = on_val.worst("representation").accuracy
    return row


def measure_ceiling(settings, data, seed):
    """Return {"ceiling", "floor"}: of the best fresh probe on the raw images, and of no probe."""
    fit, test = (
        _examples(data.sets[name], _flat(data.sets[name].images, settings))
        for name in ("probe_fit", "probe_test")
    )
    seeds = tuple(range(settings.probe_seeds))
    audit = probes.audit("context", fit, test, seeds=seeds, controls=False)
    return {"ceiling": audit.worst("representation").accuracy, "floor": audit.floor}


def _flat(images, settings):
    images = image_training.centre_crop(images, settings.crop_size or settings.image_size)
    return images.reshape(len(images), -1) / np.float32(255)


def _examples(image_set, representation):
    return probes.Examples({"representation": representation}, image_set.context, image_set.groups)


def _accuracy(scores, labels):
    return float((np.asarray(scores).argmax(1) == labels).mean())


class SweepFolder:
    """The folder of a sweep: settings.json, and results.jsonl with one line per finished Point."""

    def __init__(self, path, settings):
        """Open or make it.

        Raises:
            RunError: if it was made with other settings, or cannot be written or read.
        """
        self.path, self._lock = Path(path), threading.Lock()
        self.results = self.path / "results.jsonl"
        wanted = settings.model_dump()
        file = self.path / "settings.json"
        try:  # no folder of `writing_folder`: it grows, and is begun once settings.json is there
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
                    f"it is {value}. Give another `name`, or the same settings to go on with it."
                )

    def rows(self):
        """Return the finished rows, {"method", "alpha", "seed", ...} each.

        A last line that was not written whole, because the machine went down, is cut off.

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

    def add(self, row):
        """Append a row, whole."""
        with self._lock, open(self.results, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def write_csv(self, name, rows):
        """Write a table of dicts, whole or not at all."""
        write_csv(self.path / name, rows)


def run(settings, folder, methods, alphas, seeds, threads=None, on_done=None):
    """Do what is missing of a sweep.

    Args:
        settings: ImageSettings.
        folder: SweepFolder.
        methods: names, see `fedgru.config.methods.parse_method`.
        alphas: floats, 0 to 1.
        seeds: ints.
        threads: Points worked on at the same time; one per core if None.
        on_done: called with (number of Points done, of all) at the start and after each.

    Returns:
        list of rows, those of this sweep alone, in the order of `plan`.

    Raises:
        ConfigError: for an alpha or method that cannot be.
        Interrupted: on Ctrl-C or SIGTERM; says how to go on.
    """
    check_alphas(alphas)
    for method in methods:
        check_method(method, settings)
    points = plan(methods, alphas, seeds)
    done = {Point(r["method"], r["alpha"], r["seed"]): r for r in folder.rows()}
    missing = [point for point in points if point not in done]
    if on_done is not None:
        on_done(len(points) - len(missing), len(points))

    def work(point):
        row = vars(point) | measure_point(settings, point)
        folder.add(row)
        return point, row

    from threadpoolctl import threadpool_limits

    pool = ThreadPoolExecutor(min(num_threads(threads), max(len(missing), 1)))
    one_each = threadpool_limits(1)  # the trainings share the cores; BLAS inside them must not
    try:
        for future in as_completed([pool.submit(work, point) for point in missing]):
            point, row = future.result()
            done[point] = row
            if on_done is not None:
                on_done(sum(p in done for p in points), len(points))
    except KeyboardInterrupt as error:
        raise Interrupted(
            f". What is done is kept in {folder.path}; the same command goes on from there.", error
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
        one_each.restore_original_limits()
    return [done[point] for point in points]


def summarise(rows, methods):
    """Return one dict for each method and alpha: mean and standard deviation over seeds.

    Args:
        rows: from `run`.
        methods: names; each starts from the trainings at alpha 0, which all share.

    Returns:
        list of {"method", "alpha", "seeds", "<name>", "<name>_sd", ...}; the deviation has n - 1
        below the line, and is 0 for one seed. `ceiling` is that of the raw images.
    """
    ceilings = [row["ceiling"] for row in rows if row["method"] == CEILING]
    trained = [row for row in rows if row["method"] != CEILING]
    table = []
    for method in methods:
        mine = [row for row in trained if row["method"] in (method, ORDINARY)]
        for alpha in sorted({row["alpha"] for row in mine}):
            group = [row for row in mine if row["alpha"] == alpha]
            line = {"method": method, "alpha": alpha, "seeds": len(group)}
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


def choose_alpha(lines):
    """Return the line of one method to prefer, by the validation set alone; None if it cannot be.

    The largest validation accuracy of the target head, less what the best validation probe
    reads above a half. The validation set has as many of each target on each context.
    """
    scored = [line for line in lines if line["val_target"] is not None]
    if not scored:
        return None
    return max(scored, key=lambda line: line["val_target"] - max(line["val_probe"] - 0.5, 0.0))
