"""Compare runs on the same targets: paired by client, averaged over seeds.

Runs that differ only in the seed (and in what changes no result: name, threads, engine) are one
row: means over the seeds, smallest to largest in brackets. A difference is the difference of the
rows' mean per-client sums. Its interval is a bootstrap over clients: it covers the draw of people.
The spread over seeds is what the brackets show.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from fedgru.config.settings import Settings
from fedgru.core import metrics, seeding, verdict
from fedgru.core.errors import ConfigError, RunError
from fedgru.core.types import Doubles, Ints
from fedgru.evaluation import best_counting

RESAMPLING_SEED = 0
DEFAULT_METRICS = ("acc@1", "acc@5", "loss")
UNSEEN_BY_RESULTS = {"seed": 0, "name": "", "threads": None, "engine": "jax"}


class KindOfRun(Protocol):
    """See `fedgru.runs.kinds.RunKind`."""

    @property
    def name(self) -> str: ...
    @property
    def is_baseline(self) -> bool: ...
    @property
    def counting(self) -> str | None: ...


class ComparedRun(Protocol):
    """What is read of a run, see `fedgru.runs.folder.RunFolder`."""

    @property
    def path(self) -> Path: ...
    @property
    def kind(self) -> KindOfRun: ...

    def settings(self) -> Settings: ...
    def facts(self) -> dict[str, Any]: ...
    def test(self) -> dict[str, Any]: ...
    def client_table(self, name: str) -> dict[str, npt.NDArray[Any]]: ...
    def predictions(self, columns: list[str]) -> dict[str, npt.NDArray[Any]]: ...


Key: TypeAlias = tuple[KindOfRun, str]  # of runs that differ in the seed alone


@dataclass(frozen=True)
class Row:
    """Runs of one setting, or what their fine-tuned copies score.

    Attributes:
        label: its name in the table.
        runs: paths of the runs.
        seeds: their seeds.
        tables: per seed, {column: [num_clients]} as in clients.csv, clients in order of
            their ids.
        times: per seed with simulated time, its best round and the hours up to it.
        counted: per seed, the baseline whose scores are the table's columns `counting_...`; None
            if there are none.
        counting: for a counting baseline, its name in reports.
        prior: the model's prior; None without a model.
        privacy: per seed with differential privacy, epsilon and delta.
        exchanged: per seed with server and clients, bytes down and up of all rounds.
    """

    label: str
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    tables: tuple[dict[str, npt.NDArray[Any]], ...]
    times: tuple[tuple[int, float], ...] = ()
    counted: tuple[str | None, ...] = ()
    counting: str | None = None
    prior: str | None = None
    privacy: tuple[tuple[float, float], ...] = ()
    exchanged: tuple[tuple[int, int], ...] = ()

    def has(self, metric: str) -> bool:
        """Whether the runs measured it: counting baselines have no loss."""
        return all(metric in table and not np.isnan(table[metric]).all() for table in self.tables)

    def sums(self, metric: str) -> tuple[Doubles, Ints]:
        """Return each client's sum, mean over seeds, and its count; see `metrics.client_sums`."""
        table = self.tables[0]
        counts = table["targets"].astype(np.int64)
        if metric == "loss":
            counts = counts - table["unknown_targets"].astype(np.int64)
        means = np.mean([np.nan_to_num(t[metric]) for t in self.tables], axis=0)
        return means * counts, counts

    def of_counting(self, name: str, metric: str) -> list[Doubles]:
        """Return each client's mean of a metric of baseline `name`, of each seed that has it."""
        column = f"{best_counting.COLUMN}{metric}"
        pairs = zip(self.tables, self.counted, strict=True)
        return [np.nan_to_num(t[column]) for t, own in pairs if own == name and column in t]

    def values(self, metric: str) -> list[float]:
        """Return the micro metric of each seed."""
        _, counts = self.sums(metric)
        return [float(np.nansum(t[metric] * counts) / counts.sum()) for t in self.tables]

    def worst_tenths(self) -> list[float]:
        """Return for each seed the mean acc@1 of the tenth of the clients with the lowest."""
        found = (table["acc@1"][table["targets"] > 0] for table in self.tables)
        return [float(rates[metrics.worst_tenth(rates)].mean()) for rates in found]


def compare(runs: Sequence[ComparedRun], names: Sequence[str] = DEFAULT_METRICS) -> dict[str, Any]:
    """Compare evaluated runs with the first of them.

    Args:
        runs: RunFolders, at least two.
        names: metrics.

    Returns:
        dict that JSON can hold: `task`, what is predicted, `targets`, `clients`, `reference` (label
        of the first row), and `rows`, each `label`, `runs`, `seeds`, and per metric {"mean",
        "lowest", "highest", "difference": None or {"difference", "interval", "significant"}}, None
        where a run gives no probabilities and so no loss; the difference is None where two runs
        have a loss for not the same targets. `worst_tenth`, of each row `label`, and `mean`,
        `lowest` and `highest` over seeds, of the mean acc@1 of the tenth of the clients with the
        lowest. If the runs' reports have counting on validation, also `best_counting`:
        `name`, the baseline that is best there, the same for all rows; `mean`, its acc@1 on test;
        and `rows`, of each row `label`, `difference`, its acc@1 less that, and `verdict`, see
        `verdict.Verdict`. If a run has simulated time, also `simulated`: `label`, `rounds` and
        `hours` up to the best round, means over seeds, of each such row. If a run is private, also
        `privacy`: `label`, `epsilon` and `delta`, the largest over seeds, of each such row.
        `exchanged`: `label`, `down_bytes` and `up_bytes`, means over seeds, of each row whose runs
        say it.

    Raises:
        ConfigError: for an unknown metric.
        RunError: if a run is not evaluated, or is not of the same data, target and splits as the
            first; names the run and the difference.
    """
    for name in names:
        if name not in metrics.METRICS:
            raise ConfigError(f"unknown metric {name!r}. Accepted: {', '.join(metrics.METRICS)}.")
    _check_comparable(runs)
    rows = _rows(runs)
    if len(rows) < 2:
        raise RunError(
            "nothing to compare: all runs are seeds of the same settings, and none was fine-tuned. "
            "Give a run of other settings, or a baseline (fedgru baseline)."
        )
    reference = rows[0]
    timed = [row for row in rows if row.times]
    simulated = [
        {"label": row.label, "rounds": float(rounds), "hours": float(hours)}
        for row in timed
        for rounds, hours in [np.mean(row.times, axis=0)]
    ]
    private = [
        {"label": row.label, "epsilon": float(epsilon), "delta": float(delta)}
        for row in rows
        if row.privacy
        for epsilon, delta in [np.max(row.privacy, axis=0)]
    ]
    exchanged = [
        {"label": row.label, "down_bytes": float(down), "up_bytes": float(up)}
        for row in rows
        if row.exchanged
        for down, up in [np.mean(row.exchanged, axis=0)]
    ]
    return {
        "task": runs[0].settings().task_name,
        "targets": int(reference.tables[0]["targets"].sum()),
        "clients": len(reference.tables[0]["targets"]),
        "reference": reference.label,
        "rows": [
            {
                "label": row.label,
                "runs": list(row.runs),
                "seeds": list(row.seeds),
                **{name: _cell(row, reference, name) for name in names},
            }
            for row in rows
        ],
        "worst_tenth": [{"label": row.label, **_over_seeds(row.worst_tenths())} for row in rows],
        **_against_best(runs, rows),
        **({"simulated": simulated} if simulated else {}),
        **({"privacy": private} if private else {}),
        **({"exchanged": exchanged} if exchanged else {}),
    }


def _against_best(runs: Sequence[ComparedRun], rows: Sequence[Row]) -> dict[str, Any]:
    """Return {"best_counting": ...}, see `compare`; nothing without results on validation."""
    tests = [run.test() for run in runs]
    name = best_counting.choose(tests)
    if name is None:
        return {}
    mean = best_counting.test_accuracy(tests, name)
    found = [
        {
            "label": row.label,
            "difference": float(np.mean(row.values("acc@1"))) - mean,
            "verdict": verdict.judge(_standing(row, rows, name, mean)).to_dict(),
        }
        for row in rows
    ]
    return {"best_counting": {"name": name, "mean": mean, "rows": found}}


def standings(runs: Sequence[ComparedRun]) -> list[verdict.Standing]:
    """Return how each of some runs on the same targets stands to the best counting baseline.

    Args:
        runs: evaluated RunFolders; the baseline is chosen on validation, one for all of them.
    """
    tests = [run.test() for run in runs]
    name = best_counting.choose(tests)
    rows = [_row(run.path.name, [run], "clients.csv") for run in runs]
    found = []
    for row, test in zip(rows, tests, strict=True):
        if name is None or name in test.get("gains", {}):
            found.append(verdict.standing_of(test, name, row.counting, row.prior))
        else:
            mean = best_counting.test_accuracy(tests, name)
            found.append(_standing(row, rows, name, mean))
    return found


def _standing(row: Row, rows: Sequence[Row], name: str, mean: float) -> verdict.Standing:
    """Return the Standing of a row to a counting baseline, whose acc@1 on test is `mean`.

    Where a row's runs did not score the baseline, those of the other rows did, on the same targets.
    """
    accuracy = _gain_over(row, rows, name, "acc@1")
    if accuracy is None:
        accuracy = verdict.Gain(float(np.mean(row.values("acc@1"))) - mean, None)
    targets = row.tables[0]["targets"]
    return verdict.Standing(
        baseline=name,
        accuracy=accuracy,
        loss=_gain_over(row, rows, name, "loss"),
        targets=int(targets.sum()),
        clients=len(targets),
        seeds=len(row.seeds),
        is_baseline=row.counting == name,
        is_own_prior=name == f"running_{row.prior}",
    )


def _gain_over(row: Row, rows: Sequence[Row], name: str, metric: str) -> verdict.Gain | None:
    """Return the gain over a counting baseline; None where it has not been scored per client."""
    theirs = row.of_counting(name, metric)
    if len(theirs) < len(row.tables):
        theirs = [found for other in rows for found in other.of_counting(name, metric)]
    if not theirs or not row.has(metric):
        return None
    sums, counts = row.sums(metric)
    their_sums = np.mean(theirs, axis=0) * counts
    difference = float((sums.sum() - their_sums.sum()) / counts.sum())
    if len(counts) == 1:
        return verdict.Gain(difference, None)
    rng = seeding.rng(RESAMPLING_SEED, "compare")
    low, high = metrics.paired_bootstrap_interval(sums, their_sums, counts, rng)
    return verdict.Gain(difference, (low, high))


def _cell(row: Row, reference: Row, name: str) -> dict[str, Any] | None:
    if not row.has(name):
        return None
    values = row.values(name)
    cell: dict[str, Any] = _over_seeds(values)
    if row is reference or not reference.has(name):
        return cell | {"difference": None}
    (ours, counts), (theirs, their_counts) = row.sums(name), reference.sums(name)
    if not np.array_equal(counts, their_counts):  # losses of other targets: see task.unlisted
        return cell | {"difference": None}
    low, high = metrics.paired_bootstrap_interval(
        ours, theirs, counts, seeding.rng(RESAMPLING_SEED, "compare")
    )
    difference = float((ours.sum() - theirs.sum()) / counts.sum())
    significant = not low <= 0 <= high
    found = {"difference": difference, "interval": [low, high], "significant": significant}
    return cell | {"difference": found}


def _over_seeds(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "lowest": min(values), "highest": max(values)}


def _check_comparable(runs: Sequence[ComparedRun]) -> None:
    """Refuse runs of other data, another target or other splits than the first's."""
    first = runs[0]
    facts, target, scored = first.facts(), first.settings().inputs.target, _scored(first)
    for run in runs[1:]:
        where = f"{run.path} cannot be compared with {first.path}:"
        theirs = run.facts()
        if theirs.get("fingerprint") != facts.get("fingerprint"):
            raise RunError(
                f"{where} data set {theirs.get('data')} (fingerprint "
                f"{str(theirs.get('fingerprint'))[:12]}), not {facts.get('data')} "
                f"({str(facts.get('fingerprint'))[:12]})."
            )
        if run.settings().inputs.target != target:
            raise RunError(f"{where} it predicts the {run.settings().inputs.target}, not {target}.")
        asked, theirs_asked = (one.settings().task_name for one in (first, run))
        if theirs_asked != asked:
            raise RunError(f"{where} it predicts the {theirs_asked}, not the {asked}.")
        their_scored = _scored(run)
        if not np.array_equal(their_scored, scored):
            shared = len(np.intersect1d(their_scored, scored))
            raise RunError(
                f"{where} other users or splits. It was tested on {len(their_scored):,} "
                f"check-ins, the first on {len(scored):,}; {shared:,} are the same. Give both the "
                "same `users` and `min_checkins`."
            )


def _scored(run: ComparedRun) -> Ints:
    """int64 [num_targets], ascending: the rows of the data set that the run was tested on."""
    return np.sort(run.predictions(["row"])["row"])


def _rows(runs: Sequence[ComparedRun]) -> list[Row]:
    """Group the runs by what they are, in the order given; fine-tuned copies come after."""
    by_settings: dict[Key, list[ComparedRun]] = {}
    for run in runs:
        key = run.kind, _settings_key(run)
        by_settings.setdefault(key, []).append(run)
    labels = _labels(by_settings)
    rows = []
    for key, alike in by_settings.items():
        repeated = {run.settings().loop.seed for run in alike}
        if len(repeated) < len(alike):
            raise RunError(
                f"of {', '.join(str(run.path) for run in alike)} two are of the same settings and "
                "the same seed: give one of them."
            )
        rows.append(_row(labels[key], alike, "clients.csv"))
        tuned = [run for run in alike if (run.path / "clients-fine-tuned.csv").exists()]
        if tuned:
            epochs = {run.test()["fine_tuned"]["epochs"] for run in tuned}
            label = f"{labels[key]}, {'/'.join(map(str, sorted(epochs)))} x fine-tuned"
            rows.append(_row(label, tuned, "clients-fine-tuned.csv"))
    return rows


def _row(label: str, runs: Sequence[ComparedRun], file: str) -> Row:
    tables = []
    for run in runs:
        table = run.client_table(file)
        order = np.argsort(table["client_id"])
        tables.append({name: column[order] for name, column in table.items()})
    seeds = tuple(run.settings().loop.seed for run in runs)
    tests = [run.test() for run in runs]
    times = tuple((t["round"], t["simulated_hours"]) for t in tests if "simulated_hours" in t)
    private = [t["privacy"] for t in tests if "privacy" in t]
    sums = [t["exchanged"] for t in tests if "exchanged" in t]
    counted = tuple((t.get("best_counting") or {}).get("name") for t in tests)
    kind = runs[0].kind
    return Row(
        label,
        tuple(str(run.path) for run in runs),
        seeds,
        tuple(tables),
        times,
        counted=counted,
        counting=kind.counting,
        prior=None if kind.counting else runs[0].settings().inputs.prior,
        privacy=tuple((found["epsilon"], found["delta"]) for found in private),
        exchanged=tuple((found["down_bytes"], found["up_bytes"]) for found in sums),
    )


def _settings_key(run: ComparedRun) -> str:
    settings = run.settings()
    loop = settings.loop.model_copy(update=UNSEEN_BY_RESULTS)
    return settings.model_copy(update={"loop": loop}).model_dump_json()


def _labels(by_settings: Mapping[Key, Sequence[ComparedRun]]) -> dict[Key, str]:
    """Name each group by its runs' common name; where names repeat, by what is different too."""
    names = {key: by_settings[key][0].settings().loop.name for key in by_settings}
    labels = {}
    for key, runs in by_settings.items():
        kind, name = key[0], names[key]
        label = f"{kind.name} ({name})" if kind.is_baseline and kind.name != name else name
        if list(names.values()).count(name) > 1 and not kind.is_baseline:
            label = runs[0].path.name
        labels[key] = label
    return labels
