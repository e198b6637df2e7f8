"""State + clients -> metrics per client and overall, each target scored exactly once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from fedgru.agnostic import protection
from fedgru.core import metrics, seeding
from fedgru.core.types import AnyInts, Bools, Doubles, Floats, Int32s, Ints, Row, Weights
from fedgru.evaluation import baselines, best_counting, nearby
from fedgru.task import priors
from fedgru.task.clients import Ends
from fedgru.task.task import Task

# the kernel where the run has learnt one; by what `asked_at` is
_RUNNING = {False: (*priors.COUNTS, "kernel"), True: (*priors.ASKED_COUNTS, "kernel")}
RUNNING_BASELINES = tuple(dict.fromkeys(_RUNNING[False] + _RUNNING[True]))
# those that rank every value of the target that somebody counted; the others are priors, which
# know the model's classes
RANKING_BASELINES = (*baselines.STATIC_BASELINES, nearby.NAME, *baselines.RUNNING_COUNTS)
VALIDATED = 1000  # clients whose validation targets choose the best baseline, at most
INTERVAL_METRICS = ("acc@1", "acc@5", "loss")
CELLS_AT_ONCE = 1 << 18  # scores (targets by classes) after which they are ranked
CLIENTS_AT_ONCE = 10_000  # whose hidden states are in memory at the same time,
STATES_DIM = 1024  # fewer where these have more columns
_NOTHING = np.zeros((0, 1)), np.zeros(0, np.int32)  # log-probabilities and targets

LogProbs: TypeAlias = Callable[[int, slice], Floats]  # (client, its targets) -> log p(class)


class Forward(Protocol):
    """What evaluation needs of an engine: see `fedgru.engines.base.Engine`."""

    @property
    def task(self) -> Task: ...

    def hidden_states(
        self, weights: Weights, first_positions: Ints, end_positions: Ints, wanted: Ints
    ) -> Floats: ...


@dataclass(frozen=True)
class Evaluation:
    """The scores of a split's targets.

    Attributes:
        split: "train", "val" or "test".
        positions: int64 [num_targets].
        client_index: int32 [num_targets], among the clients that are scored.
        scores: TargetScores.
        num_clients: int, clients that are scored.
        class_names: the names of the classes in `scores`; unlisted ones, which come after them, are
            the client's own, see `fedgru.task.unlisted`.
    """

    split: str
    positions: Ints
    client_index: Int32s
    scores: metrics.TargetScores
    num_clients: int
    class_names: Sequence[str]

    def summary(self, chosen: Bools | None = None) -> Row:
        """Return {"split/metric/average": value}, over a bool mask of the targets if given."""
        scores, client_index = self.scores, self.client_index
        if chosen is not None:
            if not chosen.any():
                return {f"{self.split}/targets": 0}
            scores, client_index = scores[chosen], client_index[chosen]
        summary = metrics.summarise(scores, client_index, self.num_clients)
        return {f"{self.split}/{name}": value for name, value in summary.items()}

    def client_sums(self, name: str) -> tuple[Doubles, AnyInts]:
        """Return each client's sum and count of a metric, see `metrics.client_sums`."""
        return metrics.client_sums(self.scores, name, self.client_index, self.num_clients)


def evaluate(
    engine: Forward,
    weights: Weights,
    split: str,
    warm: bool = True,
    clients: AnyInts | Sequence[int] | None = None,
) -> Evaluation:
    """Score a split's targets with the model.

    Args:
        engine: Engine.
        weights: name -> float32 array.
        split: "train", "val" or "test".
        warm: whether the state has seen all of the client's past. Otherwise it is zero before
            the check-in that the split's first target is predicted from. The personal counts
            hold all of the past either way.
        clients: int [num_chosen], ascending, the clients whose targets are scored; None for
            all that are to be scored, `Clients.scored`.

    Returns:
        Evaluation.
    """
    task = engine.task
    at_once = max(1, CLIENTS_AT_ONCE * STATES_DIM // max(STATES_DIM, task.spec.states_dim))
    num_scored = len(task.clients.scored)
    if clients is None and num_scored > at_once and "noise_scale" not in weights:
        firsts = range(0, num_scored, at_once)
        blocks = np.split(np.arange(num_scored), firsts[1:])
        return join([evaluate(engine, weights, split, warm, block) for block in blocks])
    clients = None if clients is None else np.asarray(clients)
    positions, log_probs = model_log_probs(engine, weights, split, warm, clients)
    return _score_each_client(task, split, positions, log_probs, clients)


def model_log_probs(
    engine: Forward, weights: Weights, split: str, warm: bool = True, clients: AnyInts | None = None
) -> tuple[Ints, LogProbs]:
    """Run the model over a split.

    Args: as for `evaluate`.

    Returns:
        (positions, log_probs): int64 [n], see `Ends.positions`; and a function of (client, own),
        own the slice of the positions that are the client's: float32 [num_own, num_classes], log
        p(class) of each.
    """
    task = engine.task
    ends = _ends(task, clients)
    positions = ends.positions(split)
    first, end = ends.bounds(split)
    first = ends.start if warm else np.maximum(first - 1, ends.start)
    hidden = engine.hidden_states(weights, *task.clients.runs(first, end), positions - 1)
    task.release()
    seen = protection.represent(task, weights, hidden, split)

    def log_probs(client: int, own: slice) -> Floats:
        pairs = positions[own] - 1 - task.client_ends(client).start
        return log_softmax(task.spec.logits(weights, seen[own], task.beside(client, pairs)))

    return positions, log_probs


def join(parts: Sequence[Evaluation], positions: Sequence[Ints] | None = None) -> Evaluation:
    """Return one Evaluation of all clients from several, each of other clients.

    Args:
        parts: list of Evaluation, in the order of their clients.
        positions: int64 [num_targets] per part, where its targets lie among all clients'; None
            takes the positions of each part.
    """
    before = np.cumsum([0, *(part.num_clients for part in parts)])
    indices = [part.client_index + n for part, n in zip(parts, before[:-1], strict=True)]
    return Evaluation(
        parts[0].split,
        np.concatenate([part.positions for part in parts] if positions is None else positions),
        np.concatenate(indices).astype(np.int32),
        metrics.concatenate(part.scores for part in parts),
        int(before[-1]),
        parts[0].class_names,
    )


def evaluate_running(
    task: Task, kind: str, split: str, clients: AnyInts | None = None
) -> Evaluation:
    """Score a split's targets with the client's running counts alone.

    Args:
        task: Task.
        kind: out of `running_baselines`.
        split: "train", "val" or "test".
        clients: as for `evaluate`.

    Returns:
        Evaluation.
    """
    starts = task.clients.starts
    positions = _ends(task, clients).positions(split)
    return _score_each_client(
        task,
        split,
        positions,
        lambda client, own: task.log_prior(client, positions[own] - 1 - starts[client], kind),
        clients,
    )


def evaluate_counts(
    task: Task,
    name: str,
    split: str,
    clients: AnyInts | None = None,
    radius_km: float | None = None,
) -> Evaluation:
    """Score a split's targets with a counting baseline that ranks.

    Args:
        task: Task.
        name: out of RANKING_BASELINES.
        split: "val" or "test".
        clients: as for `evaluate`.
        radius_km: of popular nearby; None takes the one that is best on validation.

    Returns:
        Evaluation, without a loss.
    """
    baseline = (baselines.STATIC_BASELINES | baselines.RUNNING_COUNTS).get(name)
    if baseline is None:
        if radius_km is None:
            radius_km = nearby.best_radius(_counting(task, "val", validated(task)))
        baseline = partial(nearby.popular_nearby, radius_km=radius_km)
    counting = _counting(task, split, clients)
    listed = (task.classes >= 0) & (task.classes < task.num_listed)
    scores = baselines.rank(baseline, counting, listed, task.num_listed)
    ends = _ends(task, clients)
    first, end = ends.target_bounds(split)
    every = Evaluation(
        split,
        ends.positions(split),
        np.repeat(np.arange(len(first), dtype=np.int32), end - first),
        scores,
        len(first),
        getattr(task.check_ins, task.settings.inputs.target).values,
    )
    return _only_targets(task, every)


def _counting(task: Task, split: str, clients: AnyInts | None) -> baselines.Counting:
    history, codes = task.history, task.target_codes
    return baselines.Counting(
        task.clients,
        codes,
        task.num_target_codes,
        split,
        clients,
        history.lat_deg,
        history.lon_deg,
    )


def why_not_nearby(task: Task) -> str | None:
    """Return why popular nearby cannot be counted for a task; None where it can."""
    if task.settings.inputs.target != "venue":
        return "it needs `target` venue"
    if not np.isfinite(task.history.lat_deg).any():
        return "the data set has no coordinates"
    return None


def validated(task: Task) -> Ints | None:
    """Return the clients on whose validation targets counting is compared; None for all.

    The same for every run that is scored on the same clients, whatever its settings.
    """
    number = len(task.clients.scored)
    if number <= VALIDATED:
        return None
    draw = seeding.rng(0, "validation clients")
    return np.sort(draw.choice(number, VALIDATED, replace=False))


def running_baselines(task: Task) -> tuple[str, ...]:
    """Return the running counts that are compared with a task's model.

    With `asked_at` they all know the moment of the next check-in.
    """
    kinds = _RUNNING[task.settings.inputs.asked_at]
    return tuple(kind for kind in kinds if kind != "kernel" or task.kernel is not None)


def baseline_names(asked_at: bool) -> tuple[str, ...]:
    """Return the names of all baselines that a report can have, by the setting `asked_at`."""
    ranking = () if asked_at else RANKING_BASELINES
    return (*ranking, *(f"running_{kind}" for kind in _RUNNING[asked_at]))


def ranking_baselines(task: Task) -> tuple[str, ...]:
    """Return the baselines that rank and are compared with a task's model.

    With `asked_at` there are none: they do not know the moment of the next check-in.
    """
    return () if task.settings.inputs.asked_at else RANKING_BASELINES


def evaluate_baselines(
    task: Task, split: str = "test", radius_km: float | None = None, clients: Ints | None = None
) -> dict[str, Evaluation]:
    """Return {baseline: Evaluation}, static ones first, then running ones.

    Args:
        task: Task.
        split: "val" or "test".
        radius_km: of popular nearby; None where that cannot be counted.
        clients: as for `evaluate`.
    """
    return {
        name: evaluate_counts(task, name, split, clients, radius_km)
        for name in ranking_baselines(task)
        if name != nearby.NAME or radius_km is not None
    } | {
        f"running_{kind}": evaluate_running(task, kind, split, clients)
        for kind in running_baselines(task)
    }


def full_report(
    task: Task, warm: Evaluation, seed: int, cold: Evaluation | None = None
) -> tuple[dict[str, Any], Evaluation | None]:
    """Compare an evaluation of the test split with the baselines.

    Args:
        task: Task.
        warm: Evaluation of the test split.
        seed: int, for the bootstrap over clients.
        cold: Evaluation of the same with the state zero at the start, or None.

    Returns:
        What the best counting baseline scores, None where there is none, and before it a dict that
        JSON can hold: `task`, what is predicted; `test/metric/average`, of `warm`;
        `worst_tenth`, see the function of that name; `intervals`, 95 % over clients, of some of
        them; `cold`; `revisits` and `first_visits` (venues that the client had been to before, or
        not); `baselines`, the same keys for each and its acc@1 on validation; `best_counting`, see
        `_best_counting`; `gains`, the difference to each baseline with its paired interval; for the
        target venue `popular_nearby`: `radius_km`, which was the best of `radii_km` on validation,
        or `absent`, why it cannot be counted; for a made-up city `best_possible` and
        `share_of_best`, in acc@1.
    """
    revisit = ~first_visits(task)[warm.positions]
    report: dict[str, Any] = {"task": task.settings.task_name, **warm.summary()}
    report["worst_tenth"] = worst_tenth(warm)
    report["intervals"] = {
        f"test/{name}/micro": list(
            metrics.bootstrap_interval(*warm.client_sums(name), seeding.rng(seed, "bootstrap"))
        )
        for name in INTERVAL_METRICS
        if name in warm.scores.values
    }
    if cold is not None:
        report["cold"] = cold.summary()
    report["revisits"] = warm.summary(revisit)
    report["first_visits"] = warm.summary(~revisit)
    report |= _nearby(task)
    radius_km = report.get("popular_nearby", {}).get("radius_km")
    beside = evaluate_baselines(task, "test", radius_km)
    report["baselines"] = {name: found.summary() for name, found in beside.items()}
    report["best_counting"] = _best_counting(task, report["baselines"], radius_km)
    report["gains"] = {name: gains(warm, found, seed) for name, found in beside.items()}
    if task.best_prob is not None:
        report["best_possible"] = float(task.best_prob[warm.positions].mean())
        report["share_of_best"] = report["test/acc@1/micro"] / report["best_possible"]
    best = report["best_counting"]
    return report, None if best is None else beside[best["name"]]


def _nearby(task: Task) -> dict[str, Any]:
    """Return {"popular_nearby": its radii, or why it is absent}; nothing for another target."""
    if task.settings.inputs.target != "venue" or nearby.NAME not in ranking_baselines(task):
        return {}
    if why := why_not_nearby(task):
        return {nearby.NAME: {"absent": why}}
    radius_km = nearby.best_radius(_counting(task, "val", validated(task)))
    return {nearby.NAME: {"radius_km": radius_km, "radii_km": list(nearby.RADII_KM)}}


def _best_counting(
    task: Task, rows: dict[str, dict[str, Any]], radius_km: float | None
) -> dict[str, Any] | None:
    """Write each baseline's acc@1 on validation into its row, and return which one is the best.

    Returns:
        dict: `name`; `among`, how many baselines; `targets` and `clients` of validation. None where
        validation has no targets.
    """
    found = evaluate_baselines(task, "val", radius_km, validated(task))
    first = next(iter(found.values()))
    if not len(first.positions):
        return None
    for name, evaluation in found.items():
        rows[name][best_counting.METRIC] = evaluation.summary()[best_counting.METRIC]
    scored = len(np.unique(first.client_index))
    return {
        "name": best_counting.choose([{"baselines": rows}]),
        "among": len(found),
        "targets": len(first.positions),
        "clients": scored,
    }


def worst_tenth(evaluation: Evaluation) -> dict[str, Any]:
    """Return how the tenth of the clients with the lowest acc@1 fares, rounded up.

    Returns:
        `clients`, their number; `acc@1` and `loss`, means over them of each client's own mean. The
        loss is None if nothing measured it; clients without known targets do not count in it.
    """
    table = metrics.per_client(evaluation.scores, evaluation.client_index, evaluation.num_clients)
    scored = np.flatnonzero(table["targets"])
    worst = scored[metrics.worst_tenth(table["acc@1"][scored])]
    losses = table["loss"][worst] if "loss" in table else np.zeros(0)
    losses = losses[~np.isnan(losses)]
    return {
        "clients": len(worst),
        "acc@1": float(table["acc@1"][worst].mean()),
        "loss": float(losses.mean()) if len(losses) else None,
    }


def gains(ours: Evaluation, theirs: Evaluation, seed: int) -> dict[str, dict[str, Any]]:
    """Return by how much one Evaluation exceeds another of the same targets.

    Returns:
        {"test/metric/micro": {"difference": float, "interval": [low, high]}} for those of
        INTERVAL_METRICS that both have; the interval is a paired 95 % bootstrap over clients.
    """
    return {
        f"test/{name}/micro": _gain(ours, theirs, name, seed)
        for name in INTERVAL_METRICS
        if name in ours.scores.values and name in theirs.scores.values
    }


def prediction_table(task: Task, evaluation: Evaluation) -> dict[str, npt.NDArray[Any]]:
    """Return {column: array}, one row per target: the target, the prediction, their probabilities.

    Columns: `client_id`, `target` and `predicted`, texts (`target` None where the data set has
    none); `row`, int64, of the data set's check-ins; `rank` of the target, from 1, NaN where its
    class is unknown to the model; `log_prob` of the target, nats, NaN also where the predictor
    gives no probabilities; `prob` of the prediction; `first_visit`, bool.
    """
    positions, scores = evaluation.positions, evaluation.scores
    names = np.array([*getattr(task.check_ins, task.settings.inputs.target).values, None], object)
    nothing = np.full(len(positions), np.nan)
    return {
        "client_id": np.array(task.clients.client_ids, object)[evaluation.client_index],
        "row": task.clients.rows[positions],
        "target": names[task.target_codes[positions]],
        "predicted": _predicted_values(task, evaluation, names),
        "rank": scores.rank,
        "log_prob": -scores.values.get("loss", nothing),
        "prob": scores.prob,
        "first_visit": first_visits(task)[positions],
    }


def _predicted_values(
    task: Task, evaluation: Evaluation, names: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Return object [num_targets], the predicted values; `names` are those of the target's codes.

    None is an unlisted value that the client has not been to yet.
    """
    num_listed, predicted = len(evaluation.class_names), evaluation.scores.predicted
    listed = np.array([*evaluation.class_names, None], object)
    values = listed[np.minimum(predicted, num_listed)]
    starts = task.clients.starts[evaluation.client_index]
    for row in np.flatnonzero(predicted >= num_listed):
        past = slice(starts[row], evaluation.positions[row])
        visits = np.flatnonzero(task.history.classes[past] == predicted[row])
        if len(visits):
            values[row] = names[task.target_codes[past][visits[0]]]
    return values


def client_table(
    task: Task, evaluation: Evaluation, counting: Evaluation | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Return {column: list} with one row per client that has targets: the per-client CSV.

    Args:
        counting: of the same targets, of the best counting baseline; what it scores stands in
            columns `counting_acc@1`, `counting_acc@5` and, where it has one, `counting_loss`.
    """
    table = metrics.per_client(evaluation.scores, evaluation.client_index, evaluation.num_clients)
    if counting is not None:
        theirs = metrics.per_client(counting.scores, counting.client_index, counting.num_clients)
        names = [name for name in INTERVAL_METRICS if name in theirs]
        table |= {f"{best_counting.COLUMN}{name}": theirs[name] for name in names}
    kept = table["targets"] > 0
    clients = task.clients.scored
    ids = np.array(clients.client_ids, object)
    columns = {"client_id": ids[kept], "checkins": clients.lengths[kept]}
    return columns | {name: values[kept] for name, values in table.items()}


def _gain(ours: Evaluation, theirs: Evaluation, name: str, seed: int) -> dict[str, Any]:
    sums, counts = ours.client_sums(name)
    their_sums, _ = theirs.client_sums(name)
    low, high = metrics.paired_bootstrap_interval(
        sums, their_sums, counts, seeding.rng(seed, "bootstrap")
    )
    difference = (sums.sum() - their_sums.sum()) / counts.sum()
    return {"difference": float(difference), "interval": [low, high]}


def _ends(task: Task, clients: AnyInts | None) -> Ends:
    """The Ends of some clients, or of all that are scored."""
    return task.ends(slice(task.clients.num_scored) if clients is None else clients)


def _score_each_client(
    task: Task, split: str, positions: Ints, log_probs: LogProbs, clients: AnyInts | None = None
) -> Evaluation:
    """Score a few clients at a time, so that memory holds about CELLS_AT_ONCE scores."""
    clients = np.arange(len(task.clients.scored)) if clients is None else clients
    first, end = task.ends(clients).target_bounds(split)
    ends = np.cumsum(end - first)
    parts, waiting, begin = [], [], 0
    for client, start, stop in zip(clients.tolist(), ends - (end - first), ends, strict=True):
        if start < stop:
            waiting.append(log_probs(client, slice(start, stop)))
        if waiting and (stop == len(positions) or sum(w.size for w in waiting) > CELLS_AT_ONCE):
            (targets,) = task.read(["classes"], positions[begin:stop])
            parts.append(metrics.score_targets(np.concatenate(waiting), targets))
            waiting, begin = [], stop
    every = Evaluation(
        split,
        positions,
        np.repeat(np.arange(len(clients), dtype=np.int32), end - first),
        metrics.concatenate(parts) if parts else metrics.score_targets(*_NOTHING),
        len(clients),
        task.target_vocabulary.values,
    )
    return _only_targets(task, every)


def _only_targets(task: Task, every: Evaluation) -> Evaluation:
    """Return an Evaluation without the positions that are no targets."""
    chosen = task.clients.are_targets(every.positions)
    if chosen.all():
        return every
    return replace(
        every,
        positions=every.positions[chosen],
        client_index=every.client_index[chosen],
        scores=every.scores[chosen],
    )


def first_visits(task: Task) -> Bools:
    """Return bool [num_positions], whether the client had never checked in there before."""
    clients, venues = task.clients, task.history.venues
    key = clients.client_of.astype(np.int64) * (int(venues.max()) + 1) + venues
    first = np.zeros(len(key), bool)
    first[np.unique(key, return_index=True)[1]] = True
    return first


def log_softmax(scores: Floats) -> Floats:
    """Return the log of the softmax over the last axis."""
    scores = scores - scores.max(axis=-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
