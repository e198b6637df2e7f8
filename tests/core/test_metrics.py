"""fedgru/core/metrics.py: the tie rule, unknown targets, the averages, the intervals."""

import itertools
import math

import numpy as np
import pytest

from fedgru.core import metrics
from fedgru.core.errors import TrainingError


def values_of(scores, target):
    ranked = metrics.rank_targets(np.array([scores]), np.array([target]))
    return {name: value[0] for name, value in ranked.values.items()}


def test_values_at_a_rank_without_ties():
    # class 0 is third: one over 3, and 1 / log2(1 + 3) = 0.5
    values = values_of([0.2, 0.9, 0.1, 0.7], target=0)
    assert values == {
        "acc@1": 0,
        "acc@5": 1,
        "acc@10": 1,
        "mrr": pytest.approx(1 / 3),
        "ndcg": pytest.approx(0.5),
    }


def test_ndcg_is_not_cut_off():
    # rank 15 of 15: 1 / log2(16)
    assert values_of(-np.arange(15.0), target=14)["ndcg"] == pytest.approx(0.25)


def test_tied_classes_share_their_ranks():
    # one class above, three tied at ranks 2 to 4
    values = values_of([5, 3, 3, 3, 1], target=2)
    assert values["acc@1"] == 0
    assert values["mrr"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)
    assert values["ndcg"] == pytest.approx((1 / math.log2(3) + 1 / 2 + 1 / math.log2(5)) / 3)
    # two above, six tied at ranks 3 to 8: three of the six ranks are among the first 5
    assert values_of([9, 9, 4, 4, 4, 4, 4, 4, 0], target=4)["acc@5"] == pytest.approx(3 / 6)


def test_all_scores_tied_is_guessing():
    values = values_of(np.zeros(20), target=7)
    assert values["acc@1"] == pytest.approx(1 / 20)
    assert values["acc@10"] == pytest.approx(10 / 20)


def test_tie_rule_is_the_mean_over_every_order_of_the_tied():
    rng = np.random.default_rng(5)
    for _ in range(20):
        scores, target = rng.integers(0, 3, 6), int(rng.integers(6))
        at_each_order = []
        for order in itertools.permutations(range(6)):  # ties broken by a fixed random order
            ranking = sorted(range(6), key=lambda c, order=order: (-scores[c], order[c]))
            at_each_order.append(1 / (1 + ranking.index(target)))
        assert values_of(scores, target)["mrr"] == pytest.approx(np.mean(at_each_order))


def test_an_unknown_target_is_a_miss_and_has_no_loss():
    log_probs = np.log([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]])
    scores = metrics.score_targets(log_probs, np.array([-1, 1]))
    for name in metrics.RANK_METRICS:
        assert scores.values[name][0] == 0
    assert np.isnan(scores.values["loss"][0])
    assert scores.values["loss"][1] == pytest.approx(math.log(5))
    assert scores.known.tolist() == [False, True]


def test_what_was_said_in_the_targets_place():
    log_probs = np.log([[0.5, 0.25, 0.25], [0.2, 0.4, 0.4], [0.7, 0.2, 0.1]])
    scores = metrics.score_targets(log_probs, np.array([2, 0, -1]))
    # class 2 shares ranks 2 and 3; class 0 comes last; the third target is of no known class
    np.testing.assert_array_equal(scores.rank, [2.5, 3, np.nan])
    assert scores.predicted.tolist() == [0, 1, 0]  # among equals the smallest
    np.testing.assert_allclose(scores.prob, [0.5, 0.4, 0.7])
    assert np.isnan(metrics.rank_targets(log_probs, np.array([2, 0, -1])).prob).all()
    some = scores[np.array([False, True, True])]
    assert (some.predicted.tolist(), some.known.tolist()) == ([1, 0], [True, False])
    np.testing.assert_allclose(some.values["loss"], [-np.log(0.2), np.nan])


def test_large_tables_are_scored_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    scores, targets = rng.integers(0, 9, (50, 7)), rng.integers(-1, 7, 50)
    whole = metrics.rank_targets(scores, targets)
    monkeypatch.setattr(metrics, "CELLS_AT_ONCE", 3 * 7)
    in_parts = metrics.rank_targets(scores, targets)
    for name in metrics.RANK_METRICS:
        np.testing.assert_array_equal(in_parts.values[name], whole.values[name])


def test_renaming_the_classes_changes_nothing():
    rng = np.random.default_rng(1)
    scores, targets = rng.integers(0, 4, (30, 8)), rng.integers(0, 8, 30)
    new_name = rng.permutation(8)
    renamed = np.empty_like(scores)
    renamed[:, new_name] = scores
    before = metrics.rank_targets(scores, targets)
    after = metrics.rank_targets(renamed, new_name[targets])
    for name in metrics.RANK_METRICS:
        np.testing.assert_array_equal(after.values[name], before.values[name])


def test_a_score_that_is_not_a_number_is_an_error(monkeypatch):
    monkeypatch.setattr(metrics, "CELLS_AT_ONCE", 3)  # one target at a time
    scores = np.zeros((4, 3))
    scores[2, 1] = np.nan
    with pytest.raises(TrainingError) as error:
        metrics.score_targets(scores, np.array([0, 1, 2, 0]))
    assert str(error.value) == "the score of class 1 for target 2 is not a number (NaN)."


def three_clients():
    """Client 0: hit, hit, miss, unknown. Client 1: nothing. Client 2: hit."""
    log_probs = np.log([[0.5, 0.3, 0.2]] * 3 + [[0.6, 0.3, 0.1]] + [[0.8, 0.1, 0.1]])
    targets = np.array([0, 0, 1, -1, 0])
    return metrics.score_targets(log_probs, targets), np.array([0, 0, 0, 0, 2])


def test_micro_counts_each_check_in_and_macro_each_client_once():
    summary = metrics.summarise(*three_clients(), num_clients=3)
    assert summary["targets"] == 5
    assert summary["unknown_targets"] == 1
    assert summary["acc@1/micro"] == pytest.approx(3 / 5)
    # (2/4 + 1) / 2: client 1 has no targets and is left out
    assert summary["acc@1/macro"] == pytest.approx(0.75)
    client_0, client_2 = (2 * math.log(2) - math.log(0.3)) / 3, -math.log(0.8)
    assert summary["loss/micro"] == pytest.approx((3 * client_0 + client_2) / 4)
    assert summary["loss/macro"] == pytest.approx((client_0 + client_2) / 2)
    assert list(summary) == ["targets", "unknown_targets"] + [
        f"{name}/{average}" for name in metrics.METRICS for average in ("micro", "macro")
    ]


def test_per_client_table():
    table = metrics.per_client(*three_clients(), num_clients=3)
    assert table["targets"].tolist() == [4, 0, 1]
    assert table["unknown_targets"].tolist() == [1, 0, 0]
    np.testing.assert_allclose(table["acc@1"], [0.5, np.nan, 1])
    np.testing.assert_allclose(
        table["loss"], [(2 * math.log(2) - math.log(0.3)) / 3, np.nan, -math.log(0.8)]
    )


def test_only_unknown_targets_leave_no_loss():
    scores = metrics.score_targets(np.log([[0.5, 0.5]]), np.array([-1]))
    summary = metrics.summarise(scores, np.array([0]), num_clients=1)
    assert summary["acc@5/micro"] == 0
    assert math.isnan(summary["loss/micro"]) and math.isnan(summary["loss/macro"])


def test_no_targets_are_an_error():
    scores = metrics.rank_targets(np.zeros((0, 3)), np.zeros(0, int))
    with pytest.raises(TrainingError) as error:
        metrics.summarise(scores, np.zeros(0, int), num_clients=2)
    assert str(error.value) == "there are no targets to score."
    with pytest.raises(TrainingError) as error:
        metrics.bootstrap_interval([0, 0], [0, 0], np.random.default_rng(0))
    assert str(error.value) == "there are no targets to score."


def test_concatenated_batches_equal_one_batch():
    rng = np.random.default_rng(2)
    log_probs, targets = np.log(rng.dirichlet(np.ones(5), 12)), rng.integers(-1, 5, 12)
    whole = metrics.score_targets(log_probs, targets)
    joined = metrics.concatenate(
        metrics.score_targets(log_probs[part], targets[part])
        for part in (slice(0, 5), slice(5, 5), slice(5, 12))
    )
    assert len(joined) == 12
    for name in metrics.METRICS:
        np.testing.assert_array_equal(joined.values[name], whole.values[name])


def test_directions():
    assert metrics.METRICS["mrr"].higher_is_better
    assert not metrics.METRICS["loss"].higher_is_better


def test_bootstrap_draws_whole_clients():
    # Two clients at 0 and 1, the first ten times as large: a resample is (0, 0), (1, 1) or one
    # of each, 1/11. So half of the resamples lie at 1/11 and a quarter at either end.
    rng = np.random.default_rng(0)
    low, high = metrics.bootstrap_interval([0, 10], [100, 10], rng, level=0.4)
    assert (low, high) == (pytest.approx(1 / 11), pytest.approx(1 / 11))
    assert metrics.bootstrap_interval([0, 10], [100, 10], rng, level=0.9) == (0.0, 1.0)


def test_bootstrap_agrees_with_the_normal_approximation():
    rng = np.random.default_rng(3)
    hits, counts = rng.binomial(100, 0.3, 400), np.full(400, 100)
    low, high = metrics.bootstrap_interval(hits, counts, rng)
    half_width = 1.96 * np.std(hits / 100) / np.sqrt(400)
    assert low == pytest.approx(hits.mean() / 100 - half_width, abs=0.15 * half_width)
    assert high == pytest.approx(hits.mean() / 100 + half_width, abs=0.15 * half_width)


def test_clients_without_targets_do_not_widen_the_interval():
    with_empty = metrics.bootstrap_interval([3, 0, 5], [9, 0, 9], np.random.default_rng(1))
    assert with_empty == metrics.bootstrap_interval([3, 5], [9, 9], np.random.default_rng(1))


def test_a_paired_difference_is_narrower_than_the_spread_of_either():
    # Clients differ much, but a is better than b by one in ten for every one of them.
    theirs, counts = np.arange(0, 50, 5), np.full(10, 50)
    rng = np.random.default_rng(4)
    low, high = metrics.paired_bootstrap_interval(theirs + 5, theirs, counts, rng)
    assert (low, high) == (pytest.approx(0.1), pytest.approx(0.1))


def test_a_bootstrap_of_many_clients_is_drawn_in_parts(monkeypatch):
    hits, counts = np.arange(10.0) % 3, np.full(10, 4)
    at_once = metrics.bootstrap_interval(hits, counts, np.random.default_rng(1))
    monkeypatch.setattr(metrics, "CELLS_AT_ONCE", 70)  # 7 resamples at a time
    assert metrics.bootstrap_interval(hits, counts, np.random.default_rng(1)) == at_once


def test_the_worst_tenth_is_rounded_up():
    accuracy = np.array([0.5, 0.1, 0.9, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9])
    assert metrics.worst_tenth(accuracy).tolist() == [1, 3]  # 11 clients: 1.1, so 2
    assert metrics.worst_tenth(accuracy[:10]).tolist() == [1]
    assert metrics.worst_tenth([0.3]).tolist() == [0]
    assert metrics.worst_tenth([0.3, 0.3]).tolist() == [0]
