"""State + clients -> metrics per client and overall, each target scored exactly once."""

from dataclasses import dataclass

import numpy as np

from fedgru import baselines, metrics, priors, protection, seeding
from fedgru.models import gru

RUNNING_BASELINES = (*priors.COUNTS, "kernel")  # the kernel where the run has learnt one
INTERVAL_METRICS = ("acc@1", "acc@5", "loss")


@dataclass(frozen=True)
class Evaluation:
    """The scores of a split's targets.

    Attributes:
        split: "train", "val" or "test".
        positions: int64 [num_targets].
        client_index: int32 [num_targets].
        scores: TargetScores.
        num_clients: int.
    """

    split: str
    positions: np.ndarray
    client_index: np.ndarray
    scores: metrics.TargetScores
    num_clients: int

    def summary(self, chosen=None):
        """Return {"split/metric/average": value}, over a bool mask of the targets if given."""
        scores, client_index = self.scores, self.client_index
        if chosen is not None:
            if not chosen.any():
                return {f"{self.split}/targets": 0}
            values = {name: v[chosen] for name, v in scores.values.items()}
            scores = metrics.TargetScores(values, scores.known[chosen])
            client_index = client_index[chosen]
        summary = metrics.summarise(scores, client_index, self.num_clients)
        return {f"{self.split}/{name}": value for name, value in summary.items()}

    def client_sums(self, name):
        """Return each client's sum and count of a metric, see `metrics.client_sums`."""
        return metrics.client_sums(self.scores, name, self.client_index, self.num_clients)


def evaluate(engine, weights, split, warm=True):
    """Score a split's targets with the model.

    Args:
        engine: Engine.
        weights: name -> float32 array.
        split: "train", "val" or "test".
        warm: whether the state has seen all of the client's past. Otherwise it is zero before
            the check-in that the split's first target is predicted from. The personal counts
            hold all of the past either way.

    Returns:
        Evaluation.
    """
    task = engine.task
    clients = task.clients
    positions = clients.target_positions(split)
    first, end = clients.bounds(split)
    first = clients.starts[:-1] if warm else np.maximum(first - 1, clients.starts[:-1])
    hidden = engine.hidden_states(weights, first, end, positions - 1)
    seen = protection.represent(task, weights, hidden, split)

    def log_probs(client, own):
        log_prior = None
        if task.spec.has_prior:
            log_prior = task.log_prior(client, positions[own] - 1 - clients.starts[client])
        return _log_softmax(gru.logits(weights, seen[own], log_prior))

    return _score_each_client(task, split, positions, log_probs)


def evaluate_running(task, kind, split):
    """Score a split's targets with the client's running counts alone.

    Args:
        task: Task.
        kind: "markov", "backoff", or "kernel" if the task has one.
        split: "train", "val" or "test".

    Returns:
        Evaluation.
    """
    starts, positions = task.clients.starts, task.clients.target_positions(split)
    return _score_each_client(
        task,
        split,
        positions,
        lambda client, own: task.log_prior(client, positions[own] - 1 - starts[client], kind),
    )


def full_report(engine, weights, seed):
    """Evaluate the test split in every way, beside the baselines.

    Args:
        engine: Engine.
        weights: name -> float32 array.
        seed: int, for the bootstrap over clients.

    Returns:
        (report, warm): a dict that JSON can hold, and the warm Evaluation. The report's keys:
        `test/metric/average`, warm; `intervals`, 95 % over clients, of some of them; `cold`;
        `revisits` and `first_visits` (venues that the client had been to before, or not);
        `baselines`, the same keys for each; `gains`, the difference to each running baseline
        with its paired interval; for a made-up city `best_possible` and `share_of_best`, in
        acc@1.
    """
    task = engine.task
    warm = evaluate(engine, weights, "test")
    kinds = [kind for kind in RUNNING_BASELINES if kind != "kernel" or task.kernel is not None]
    running = {kind: evaluate_running(task, kind, "test") for kind in kinds}
    revisit = ~_first_visits(task.history.venues, task.clients)[warm.positions]
    report = warm.summary()
    report["intervals"] = {
        f"test/{name}/micro": list(
            metrics.bootstrap_interval(*warm.client_sums(name), seeding.rng(seed, "bootstrap"))
        )
        for name in INTERVAL_METRICS
    }
    report["cold"] = evaluate(engine, weights, "test", warm=False).summary()
    report["revisits"] = warm.summary(revisit)
    report["first_visits"] = warm.summary(~revisit)
    static = baselines.evaluate_static(task.clients, task.target_codes, task.num_target_codes)
    report["baselines"] = {
        name: {f"test/{key}": value for key, value in summary.items()}
        for name, summary in static.items()
    } | {f"running_{kind}": running[kind].summary() for kind in kinds}
    report["gains"] = {
        f"running_{kind}": {
            f"test/{name}/micro": _gain(warm, running[kind], name, seed)
            for name in INTERVAL_METRICS
        }
        for kind in kinds
    }
    if task.best_prob is not None:
        report["best_possible"] = float(task.best_prob[warm.positions].mean())
        report["share_of_best"] = report["test/acc@1/micro"] / report["best_possible"]
    return report, warm


def client_table(task, evaluation):
    """Return {column: list} with one row per client that has targets: the per-client CSV."""
    table = metrics.per_client(evaluation.scores, evaluation.client_index, evaluation.num_clients)
    kept = table["targets"] > 0
    ids = np.array(task.clients.client_ids, object)
    columns = {"client_id": ids[kept], "checkins": task.clients.lengths[kept]}
    return columns | {name: values[kept] for name, values in table.items()}


def _gain(ours, theirs, name, seed):
    sums, counts = ours.client_sums(name)
    their_sums, _ = theirs.client_sums(name)
    low, high = metrics.paired_bootstrap_interval(
        sums, their_sums, counts, seeding.rng(seed, "bootstrap")
    )
    difference = (sums.sum() - their_sums.sum()) / counts.sum()
    return {"difference": float(difference), "interval": [low, high]}


def _score_each_client(task, split, positions, log_probs):
    """Score client after client, so that memory holds one client's scores at a time."""
    client_index = task.clients.client_of[positions]
    bounds = np.searchsorted(client_index, np.arange(len(task.clients) + 1))
    parts = [
        metrics.score_targets(log_probs(client, slice(*own)), task.classes[positions[slice(*own)]])
        for client, own in enumerate(zip(bounds[:-1], bounds[1:], strict=True))
        if own[0] < own[1]
    ]
    return Evaluation(split, positions, client_index, metrics.concatenate(parts), len(task.clients))


def _first_visits(venue_codes, clients):
    """Return bool [num_positions], whether the client had never checked in there before."""
    key = clients.client_of.astype(np.int64) * (int(venue_codes.max()) + 1) + venue_codes
    first = np.zeros(len(key), bool)
    first[np.unique(key, return_index=True)[1]] = True
    return first


def _log_softmax(scores):
    scores = scores - scores.max(axis=-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
