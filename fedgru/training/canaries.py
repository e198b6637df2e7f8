"""Membership attack on a training: which canary clients took part? A lower bound of epsilon.

Canaries are made-up clients. Each sends the same update in every round it is drawn for, in a
direction of its own, longer than the clip. A coin decides of each one whether it takes part. The
attacker knows all directions, sees the mean update of every round, and guesses by the sum of their
inner products who took part. The more guesses are right, the larger epsilon must be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedgru import algorithms
from fedgru.algorithms.dp_fed_avg import ClippedSum, DPFedAvg
from fedgru.algorithms.fed_avg import ClientUpdate, FedAvg, ServerState
from fedgru.algorithms.update_list import norm
from fedgru.core import seeding
from fedgru.core.errors import ConfigError
from fedgru.core.types import Bools, Doubles, Floats, Int32s, Ints, Weights
from fedgru.engines.base import Engine, Gathered
from fedgru.privacy.accounting import DELTA, Releases, epsilon
from fedgru.privacy.plan import Plan
from fedgru.training.loop import draw_cohort
from fedgru.training.rounds import FederatedTraining

NUM_CANARIES = 1000
MAX_ROWS = 64  # of the table in which canaries' updates are not zero
MAX_GAP = 20.0  # deviations: above, an estimate of epsilon says nothing
TOO_LONG = 4.0  # norm of a canary's update, in units of the clip
# of the canaries that are guessed, the surest ones; not all, as about half of them take part
SHARES = (0.1, 0.3, 0.9)


@dataclass(frozen=True)
class Canaries:
    """Canary clients, each with numbers of its own in which its update is not zero.

    So their directions are orthogonal, and no canary is taken for another.

    Attributes:
        takes_part: bool [num_canaries].
        owners: int64 [num_numbers], whose number each is; every canary has as many.
        numbers: float32 [num_numbers], of the directions, each of norm 1.
        names: the dense weights that are in them, in this order; after them come the rows.
        row_ids: int32 [num_rows].
    """

    takes_part: Bools
    owners: Ints
    numbers: Floats
    names: tuple[str, ...]
    row_ids: Int32s

    def scores(self, weights: Weights) -> Doubles:
        """Return the inner product of a mean update with each direction, [num_canaries]."""
        parts = [weights[name].ravel() for name in self.names]
        flat = np.concatenate([*parts, weights["rows"][self.row_ids].ravel()])
        number = len(self.takes_part)
        products = (self.numbers * flat[: len(self.owners)]).astype(np.float64)
        return np.bincount(self.owners, products, number).astype(np.float64)

    def update(self, canary: int, size: float, like: Weights, first: int) -> ClientUpdate:
        """Return what a canary sends: an update of norm `size`, its client number `first` more."""
        rows = np.zeros((len(self.row_ids), like["rows"].shape[1]), np.float32)
        dense = {name: np.zeros_like(w) for name, w in like.items() if name != "rows"}
        flat = np.zeros(rows.size + sum(dense[n].size for n in self.names), np.float32)
        own = np.flatnonzero(self.owners == canary)
        flat[own] = self.numbers[own] * np.float32(size)
        begin = 0
        for name in self.names:
            shape, length = dense[name].shape, dense[name].size
            dense[name] = flat[begin : begin + length].reshape(shape)
            begin += length
        rows = flat[begin:].reshape(rows.shape)
        return ClientUpdate(first + canary, 1, dense, self.row_ids, rows, 0.0, 0.0)


def make_canaries(weights: Weights, number: int, seed: int) -> Canaries:
    """Return Canaries for weights, name -> float32 array; each takes part or not, by a coin.

    Args:
        weights: name -> float32 array.
        number: of canaries; fewer if the weights have not as many numbers.
        seed: int.
    """
    draw = seeding.rng(seed, "canaries")
    names = tuple(sorted(name for name in weights if name != "rows"))
    table = weights["rows"]
    row_ids = np.sort(draw.permutation(len(table))[:MAX_ROWS]).astype(np.int32)
    length = sum(weights[n].size for n in names) + len(row_ids) * table.shape[1]
    number = min(number, length)
    each = length // number
    owners = draw.permutation(np.repeat(np.arange(number), each))
    signs = draw.choice(np.array([-1, 1], np.float32), len(owners))
    numbers = (signs / math.sqrt(each)).astype(np.float32)
    takes_part = draw.random(number) < 0.5  # the bound needs that they are independent
    return Canaries(takes_part, owners, numbers, names, row_ids)


def attack_training(
    engine: Engine[Any],
    rounds: int,
    seed: int = 0,
    number: int = NUM_CANARIES,
    on_round: Callable[[], object] = lambda: None,
    algorithm: FedAvg | None = None,
) -> dict[str, Any]:
    """Train again with canaries among the clients, and guess which of them took part.

    Args:
        engine: Engine, of a task of plain averaging, private or not.
        rounds: how many to train.
        seed: of the canaries.
        number: of canaries.
        on_round: called after each round.
        algorithm: None takes that of the settings.

    Returns:
        dict: `canaries`, `rounds`, `norm` (of an update, before clipping), `correct` and `guesses`
        (of the choice of guesses that gives most), `at_least` (epsilon, with 95 % confidence),
        `estimate` and `interval`, see `estimate`, and `at_most`
        (that of the accountant; None for a run that is not private).

    Raises:
        ConfigError: if the algorithm's mean is not that of the clients' updates.
    """
    task = engine.task
    chosen = algorithm or algorithms.from_settings(task.settings)
    is_private = isinstance(chosen, DPFedAvg)
    if type(chosen) is not FedAvg and not is_private:
        raise ConfigError(
            "the membership attack knows `algorithm` fed-avg with `mean` clients, not "
            f"{chosen.name}."
        )
    training = FederatedTraining(engine, chosen)
    trained = training.algorithm
    plan = trained.plan if isinstance(trained, DPFedAvg) else None
    state = training.init()
    canaries = make_canaries(state.weights, number, seed)
    size = _usual_norm(engine, state) if plan is None else TOO_LONG * plan.clip
    scores = np.zeros(len(canaries.takes_part))
    for round_num in range(1, rounds + 1):
        now = trained.in_round(state) if isinstance(trained, DPFedAvg) else trained
        assert isinstance(now, FedAvg), "checked above"
        cohort = draw_cohort(task, round_num)
        if len(cohort):
            gathered = engine.gather(now, state.weights, cohort, round_num)
        else:
            gathered = Gathered(task.settings, now.start(state.weights))
        first = len(task.clients.client_ids)
        for canary in np.flatnonzero(_drawn(canaries, plan, round_num, seed)):
            sent = canaries.update(int(canary), size, state.weights, first)
            gathered.add(task, sent, state.weights, round_num)
        total = gathered.total
        if isinstance(now, DPFedAvg) and isinstance(total, ClippedSum):
            mean, _ = now.noised_mean(state, total)
        else:
            mean = now.mean_update(total)
        scores += canaries.scores(mean)
        state = now.apply(state, total)
        on_round()
    delta = 0.0 if plan is None else plan.delta
    found = lower_bound(scores, canaries.takes_part, delta)
    found |= estimate(scores, canaries.takes_part, DELTA if plan is None else delta)
    return {
        "canaries": len(scores),
        "rounds": rounds,
        "norm": size,
        **found,
        "at_most": None if plan is None else plan.epsilon(rounds),
    }


def _drawn(canaries: Canaries, plan: Plan | None, round_num: int, seed: int) -> Bools:
    """Return bool [num_canaries], who is in a round; drawn as the clients are."""
    number = len(canaries.takes_part)
    if plan is None:
        return canaries.takes_part
    if plan.sampling == "blocks":
        turn = (round_num - 1) % plan.separation
        return canaries.takes_part & (np.arange(number) % plan.separation == turn)
    drawn = seeding.rng(seed, "canaries drawn", round_num).random(number) < plan.rate
    return canaries.takes_part & drawn


def _usual_norm(engine: Engine[Any], state: ServerState) -> float:
    """Return the median norm of the updates of up to ten clients."""
    some = engine.task.training_clients[:10]
    updates = engine.local_updates(state.weights, some, 1)
    return float(np.median([norm(u) for u in updates if isinstance(u, ClientUpdate)]))


def lower_bound(
    scores: Doubles, takes_part: Bools, delta: float, confidence: float = 0.95
) -> dict[str, Any]:
    """Return the largest epsilon that the guesses exclude, with how many were right.

    The canaries with the highest scores are guessed to take part, those with the lowest not to.
    How many are guessed is tried in three ways, for which the confidence is corrected.

    Args:
        scores: float64 [num_canaries].
        takes_part: bool [num_canaries].
        delta: of the guarantee.
        confidence: of the bound.

    Returns:
        dict: `guesses`, `correct`, `at_least` (epsilon).

    Source: Steinke et al. 2023 (arXiv:2305.08846), Theorem 5.2 and the program in its appendix D.
    """
    order, number = np.argsort(scores, kind="stable"), len(scores)
    best: dict[str, Any] = {"guesses": 0, "correct": 0, "at_least": 0.0}
    for share in SHARES:
        half = round(share * number / 2)
        correct = int(takes_part[order[number - half :]].sum() + (~takes_part[order[:half]]).sum())
        level = (1 - confidence) / len(SHARES)
        low, high = 0.0, 20.0
        while high - low > 1e-4:
            middle = (low + high) / 2
            is_excluded = p_value(number, 2 * half, correct, middle, delta) < level
            low, high = (middle, high) if is_excluded else (low, middle)
        if low > best["at_least"] or not best["guesses"]:
            best = {"guesses": 2 * half, "correct": correct, "at_least": low}
    return best


def estimate(scores: Doubles, takes_part: Bools, delta: float) -> dict[str, Any]:
    """Return an estimate of epsilon that takes both groups of scores for Gaussian.

    It is sharper than `lower_bound`, and rests on that assumption: true of independent noise with
    everybody in each round, about true of cohorts that are drawn.

    Args:
        scores: float64 [num_canaries].
        takes_part: bool [num_canaries].
        delta: of the guarantee.

    Returns:
        dict: `estimate`, and `interval`, of 95 % confidence; both None if the scores do not overlap
        at all.

    Source: Andrew et al. 2023 (arXiv:2302.03098), Algorithm 2; there the group that is left out is
        known by its distribution.
    """
    inside, outside = scores[takes_part], scores[~takes_part]
    spread = math.sqrt((inside.var() + outside.var()) / 2)
    gap = float(inside.mean() - outside.mean())
    if gap > MAX_GAP * spread:
        return {"estimate": None, "interval": None}
    gap /= spread
    error = 1.96 * math.sqrt(1 / len(inside) + 1 / len(outside))

    def of(distance: float) -> float:
        return epsilon(Releases(1 / distance), 1, delta) if distance > 1e-3 else 0.0

    return {"estimate": of(gap), "interval": [of(gap - error), of(gap + error)]}


def p_value(number: int, guesses: int, correct: int, eps: float, delta: float) -> float:
    """Return the largest chance of this many right guesses under (epsilon, delta) privacy.

    Without delta it is a binomial tail: at epsilon 0 two of two are right in 1 of 4 cases.

    >>> round(p_value(2, 2, 2, 0.0, 0.0), 6)
    0.25
    """
    from scipy import stats

    rate = 1 / (1 + math.exp(-eps))
    tail = float(stats.binom.sf(correct - 1, guesses, rate))
    if not delta:
        return min(tail, 1.0)
    each = stats.binom.pmf(correct - np.arange(1, correct + 1), guesses, rate)
    most = np.max(np.cumsum(each) / np.arange(1, correct + 1), initial=0.0)
    return min(tail + float(most) * delta * 2 * number, 1.0)
