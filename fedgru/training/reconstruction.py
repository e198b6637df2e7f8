"""Reconstruction attack: which values of a client's check-ins does its update reveal?

The attacker sees an update of the table's rows and the update of the head's bias, and names the
values that the client has in its training data: venues and categories as inputs by their rows, and
the classes that it is trained on by the bias. It does so for an update as it is sent, clipped (all
rows are then sent), with noise, and for sums over several clients, of which one is attacked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedgru.algorithms.fed_avg import ClientUpdate
from fedgru.algorithms.update_list import norm
from fedgru.core import seeding
from fedgru.core.errors import ConfigError
from fedgru.core.types import Bools, Doubles, Floats, Weights
from fedgru.engines.base import Engine
from fedgru.task.task import Task

NUM_CLIENTS = 30
IN_A_SUM = 10
BIAS = "head_bias"  # of head dense: one number for each class
VIEWS = ("as sent", "clipped", "clipped, noised", "sum of 10", "sum of 10, noised")


@dataclass(frozen=True)
class Seen:
    """What the attacker sees of an update, or of a sum.

    Attributes:
        row_norms: float64 [num_rows], norm of each row's update; all rows are there.
        bias: float32 [num_classes], update of the head's bias; None with another head.
        is_noised: whether all rows have noise: then the attacker takes the largest, as many as the
            client has. That it knows how many is more than it would.
    """

    row_norms: Doubles
    bias: Floats | None
    is_noised: bool

    def rows(self, number: int) -> Bools:
        """Return bool [num_rows], the rows that the attacker names."""
        if not self.is_noised:
            return self.row_norms > 0
        found = np.zeros(len(self.row_norms), bool)
        found[np.argsort(-self.row_norms, kind="stable")[:number]] = True
        return found

    def classes(self, number: int) -> Bools:
        """Return bool [num_classes]: those whose bias rises most."""
        assert self.bias is not None, "the head has no bias of its own"
        found = np.zeros(len(self.bias), bool)
        found[np.argsort(-self.bias, kind="stable")[:number]] = True
        return found


def attack_updates(
    engine: Engine[Task],
    weights: Weights,
    clip: float | None = None,
    noise: float = 1.0,
    seed: int = 0,
    number: int = NUM_CLIENTS,
) -> dict[str, Any]:
    """Attack the updates of some clients, made from given weights.

    Args:
        engine: Engine.
        weights: name -> float32 array.
        clip: norm that updates are clipped to; None takes their median norm.
        noise: standard deviation of the noise, in units of the clip.
        seed: of the clients, the sums and the noise.
        number: of clients.

    Returns:
        dict: `clients`, `clip`, `noise`, and `views`, {view of VIEWS: {what: {"precision",
        "recall"}}}, means over clients; `what` is the name of an id feature of the inputs, or
        "trained classes". `chance` is {what: share of all values that a client has}.

    Raises:
        ConfigError: if the inputs have no ids and the head has no bias.
    """
    task = engine.task
    if not task.inputs.id_names and BIAS not in weights:
        raise ConfigError(
            "the update has no rows and no bias that belong to a value: the reconstruction attack "
            "reads only these."
        )
    draw = seeding.rng(seed, "reconstruction")
    training = task.training_clients
    wanted = min(len(training), max(number, IN_A_SUM))
    cohort = np.sort(draw.permutation(training)[:wanted])
    updates = [u for u in engine.local_updates(weights, cohort, 1) if isinstance(u, ClientUpdate)]
    clip = float(np.median([norm(u) for u in updates])) if clip is None else clip
    scored: dict[str, dict[str, list[tuple[float, float]]]] = {view: {} for view in VIEWS}
    chance: dict[str, list[float]] = {}
    for place in range(min(number, len(updates))):
        others = draw.permutation(np.delete(np.arange(len(updates)), place))[: IN_A_SUM - 1]
        own = updates[place]
        truth = _truth(task, own)
        for what, has in truth.items():
            chance.setdefault(what, []).append(float(has.mean()))
        in_sum = [own, *(updates[i] for i in others)]
        for view, seen in _views(own, in_sum, weights, clip, noise, draw):
            for what, found in _named(task, seen, truth).items():
                scored[view].setdefault(what, []).append(_precision_recall(found, truth[what]))
    return {
        "clients": min(number, len(updates)),
        "clip": clip,
        "noise": noise,
        "in_a_sum": min(IN_A_SUM, len(updates)),
        "chance": {what: float(np.mean(shares)) for what, shares in chance.items()},
        "views": {
            view: {
                what: dict(
                    zip(("precision", "recall"), np.mean(pairs, axis=0).tolist(), strict=True)
                )
                for what, pairs in by_what.items()
            }
            for view, by_what in scored.items()
        },
    }


def _truth(task: Task, update: ClientUpdate) -> dict[str, Bools]:
    """Return {what: bool, the values that the client trains with}."""
    start, train_end, *_ = task.client_ends(update.client)
    batches = task.batches(update.client).pairs
    pairs = np.unique(batches[batches >= 0])
    (rows, classes) = task.read(["inputs.rows", "classes"], slice(start, train_end))
    used = rows[pairs]
    whole = np.zeros(task.spec.num_rows, bool)
    whole[used[used >= 0]] = True
    found = {name: whole[first:end] for name, first, end in _features(task)}
    targets = classes[pairs + 1]
    of_classes = np.zeros(task.num_classes, bool)
    of_classes[targets[targets >= 0]] = True
    return found | {"trained classes": of_classes}


def _features(task: Task) -> Iterator[tuple[str, int, int]]:
    """Yield (id feature, its first row, the row after its last)."""
    first = 0
    for name in task.inputs.id_names:
        end = first + task.inputs.sizes[name]
        yield name, first, end
        first = end


def _views(
    own: ClientUpdate,
    in_sum: Sequence[ClientUpdate],
    weights: Weights,
    clip: float,
    noise: float,
    draw: np.random.Generator,
) -> Iterator[tuple[str, Seen]]:
    """Yield (view, Seen) for each of VIEWS."""
    plain = _whole(own, weights)
    clipped = [_scaled(_whole(u, weights), min(1.0, clip / max(norm(u), 1e-30))) for u in in_sum]
    summed = {name: np.sum([c[name] for c in clipped], axis=0) for name in plain}

    def noised(arrays: Weights) -> Weights:
        return {
            name: array + np.float32(noise * clip) * draw.standard_normal(array.shape, np.float32)
            for name, array in arrays.items()
        }

    shown = (plain, clipped[0], noised(clipped[0]), summed, noised(summed))
    for view, arrays in zip(VIEWS, shown, strict=True):
        norms = np.linalg.norm(arrays["rows"].astype(np.float64), axis=1)
        yield view, Seen(norms, arrays.get(BIAS), "noised" in view)


def _whole(update: ClientUpdate, weights: Weights) -> Weights:
    """Return what is attacked of an update: its rows, as a whole table, and the head's bias."""
    rows = np.zeros_like(weights["rows"])
    rows[update.row_ids] = update.row_update
    bias = {BIAS: update.dense[BIAS]} if BIAS in update.dense else {}
    return {"rows": rows} | bias


def _scaled(arrays: Weights, factor: float) -> Weights:
    return {name: np.float32(factor) * array for name, array in arrays.items()}


def _named(task: Task, seen: Seen, truth: dict[str, Bools]) -> dict[str, Bools]:
    """Return {what: bool, the values that the attacker names}."""
    found = {}
    for name, first, end in _features(task):
        part = Seen(seen.row_norms[first:end], None, seen.is_noised)
        found[name] = part.rows(int(truth[name].sum()))
    if seen.bias is not None:
        found["trained classes"] = seen.classes(int(truth["trained classes"].sum()))
    return found


def _precision_recall(found: Bools, truth: Bools) -> tuple[float, float]:
    """Return precision (0 if nothing is named) and recall.

    >>> _precision_recall(np.array([True, True, False]), np.array([True, False, False]))
    (0.5, 1.0)
    """
    right = int((found & truth).sum())
    return right / max(int(found.sum()), 1), right / max(int(truth.sum()), 1)
