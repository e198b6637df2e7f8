"""The membership attack: its bound is under the accountant's, above it if noise is missing."""

import numpy as np
import pytest

from fedgru.algorithms.client_rule import DEFAULT_RULE
from fedgru.algorithms.dp_fed_avg import DPFedAvg
from fedgru.algorithms.fed_avg import FedAvg
from fedgru.algorithms.server_optimizers import SGD
from fedgru.algorithms.update_list import norm
from fedgru.core.errors import ConfigError
from fedgru.engines.base import Gathered
from fedgru.privacy.accounting import Releases, find_noise
from fedgru.training.canaries import attack_training, lower_bound, make_canaries, p_value


class Silent:
    """An engine whose clients send nothing: the canaries are alone."""

    runs_whole_rounds = False
    client_rule = DEFAULT_RULE

    def __init__(self, task):
        self.task = task

    def gather(self, algorithm, weights, cohort, round_num):
        return Gathered(self.task.settings, algorithm.start(weights))

    def local_updates(self, weights, cohort, round_num):
        rows = np.ones((1, weights["rows"].shape[1]), np.float32)
        from fedgru.algorithms.fed_avg import ClientUpdate

        dense = {name: np.ones_like(w) for name, w in weights.items() if name != "rows"}
        yield ClientUpdate(0, 1, dense, np.array([0], np.int32), rows, 0.0, 0.0)


class HalfTheNoise(DPFedAvg):
    def noised_mean(self, state, total):
        mean, slots = super().noised_mean(state, total)
        clean = {n: a / np.float32(self.plan.cohort) for n, a in total.dense.items()}
        clean["rows"] = total.rows / np.float32(self.plan.cohort)
        return {name: (mean[name] + clean[name]) / 2 for name in mean}, slots


class ForgetsToClip(DPFedAvg):
    def start(self, weights, row_ids=None):
        total = super().start(weights, row_ids)
        clip, total.clip = total.clip, np.inf
        real = total.add

        def add(update, factor=1.0):
            real(update, factor)

        total.add, total.stated = add, clip
        return total

    def noised_mean(self, state, total):
        total.clip = total.stated
        return super().noised_mean(state, total)


class ForgetsTheRows(DPFedAvg):
    """Clips the dense weights, and sends the rows as they are."""

    def start(self, weights, row_ids=None):
        total = super().start(weights, row_ids)
        real = total.add

        def add(update, factor=1.0):
            real(update, factor)
            cut = 1 - min(1.0, total.clip / norm(update))
            total.rows[update.row_ids] += np.float32(cut) * update.row_update

        total.add = add
        return total


def attacked(make_task, kind, epsilon, seed=0):
    noise = find_noise(lambda z: Releases(z), 1, 1e-5, epsilon)
    task = make_task(dp_clip=1.0, dp_noise=noise, rounds=1, seed=seed)
    return attack_training(Silent(task), 1, seed, algorithm=kind(SGD(1.0)))


@pytest.mark.parametrize("epsilon", [2.0, 8.0])
def test_the_bound_is_under_the_accountants_in_twenty_seeds(make_task, epsilon):
    found = [attacked(make_task, DPFedAvg, epsilon, seed) for seed in range(20)]
    assert all(one["at_least"] < one["at_most"] <= epsilon for one in found)
    # and it is not so by being nothing
    assert np.median([one["at_least"] for one in found]) > epsilon / 8
    # canaries are the worst case here, so the estimate is about the accountant's number
    inside = [one["interval"][0] < one["at_most"] < one["interval"][1] for one in found]
    assert sum(inside) >= 17


def test_half_of_the_noise_is_seen(make_task):
    found = attacked(make_task, HalfTheNoise, 2.0)
    assert found["interval"][0] > found["at_most"]
    assert found["at_least"] > attacked(make_task, DPFedAvg, 2.0)["at_least"] + 0.5


@pytest.mark.parametrize("kind", [ForgetsToClip, ForgetsTheRows])
def test_a_forgotten_clip_is_seen(make_task, kind):
    found = attacked(make_task, kind, 2.0)
    assert found["at_least"] > found["at_most"]
    assert found["interval"] is None or found["interval"][0] > found["at_most"]


def test_without_noise_it_is_above_five(make_task):
    task = make_task(prior="backoff", mean="clients", client_weights="equal", rounds=1)
    found = attack_training(Silent(task), 1, algorithm=FedAvg(SGD(1.0)))
    # all of 900 right: (1 / (1 + e^-eps))^900 = 0.05 / 3 at eps = 5.39
    assert found["correct"] == found["guesses"] == 900
    assert found["at_least"] > 5
    assert found["at_most"] is None and found["estimate"] is None


def test_the_bound_by_hand():
    # all of 90 right: (1 / (1 + e^-eps))^90 = 0.05 / 3 at eps = 3.07
    takes_part = np.arange(100) >= 50
    found = lower_bound(np.arange(100.0), takes_part, 0.0)
    assert (found["guesses"], found["correct"]) == (90, 90)
    assert found["at_least"] == pytest.approx(-np.log((0.05 / 3) ** (-1 / 90) - 1), abs=1e-3)
    # half of them right says nothing
    by_chance = np.random.default_rng(0).permutation(100.0 * np.arange(100))
    assert lower_bound(by_chance, takes_part, 0.0)["at_least"] < 1.0
    # delta makes it weaker
    assert p_value(100, 100, 100, 3.0, 1e-3) > p_value(100, 100, 100, 3.0, 0.0)


def test_canaries_are_orthogonal_and_of_the_size_that_is_asked(make_task):
    weights = {"rows": np.zeros((3, 4), np.float32), "bias": np.zeros(9, np.float32)}
    canaries = make_canaries(weights, 4, 0)
    sent = [canaries.update(c, 2.0, weights, 10) for c in range(4)]
    whole = [np.concatenate([u.dense["bias"], u.row_update.ravel()]) for u in sent]
    assert np.array(whole) @ np.array(whole).T == pytest.approx(4 * np.eye(4))
    assert [u.client for u in sent] == [10, 11, 12, 13]
    mean = {"rows": sent[1].row_update, "bias": sent[1].dense["bias"]}
    assert canaries.scores(mean) == pytest.approx([0, 2, 0, 0], abs=1e-5)


def test_other_means_are_refused(make_task):
    task = make_task(robust="median")
    with pytest.raises(ConfigError, match="not median"):
        attack_training(Silent(task), 1)
