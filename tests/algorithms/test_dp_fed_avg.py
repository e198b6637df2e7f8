"""fedgru/algorithms/dp_fed_avg.py: clipping by hand, the noise by its variance over many draws."""

import numpy as np
import pytest

from fedgru.algorithms.dp_fed_avg import ClippedSum, DPFedAvg
from fedgru.algorithms.server_optimizers import SGD
from fedgru.algorithms.update_list import norm
from fedgru.core.errors import TrainingError
from fedgru.privacy import correlated
from fedgru.privacy.plan import Plan
from tests.algorithms.test_algorithms import WEIGHTS, update

BIG = {"rows": np.zeros((100, 50), np.float32), "bias": np.zeros(5000, np.float32)}


def plan(**given):
    values = {"clip": 2.0, "noise": 3.0, "delta": 1e-5, "population": 100, "cohort": 10.0}
    return Plan(**values | {"sampling": "poisson"} | given)


def one_round(algorithm, state, *updates):
    now = algorithm.in_round(state)
    total = now.start(state.weights)
    for one in updates:
        total.add(one)
    return now.apply(state, total)


def test_clipping_is_exact_at_the_boundary_rows_included():
    # (3, 4) has norm 5: its bias alone has 3
    for clip, expected in ((5.0, 5.0), (5.001, 5.0), (4.999, 4.999), (2.5, 2.5), (3.0, 3.0)):
        total = ClippedSum(WEIGHTS, None, clip)
        total.add(update(0, 1, 3.0, [0], [4.0]))
        sent = update(0, 1, float(total.dense["bias"][0]), [0], [float(total.rows[0, 0])])
        assert norm(sent) <= clip  # to the last digit
        assert norm(sent) == pytest.approx(expected, rel=1e-6)
        assert total.num_short == (clip >= 5.0)
        assert sent.dense["bias"][0] / sent.row_update[0, 0] == pytest.approx(0.75)


def test_what_counts_as_more_than_one_is_refused():
    total = ClippedSum(WEIGHTS, None, 1.0)
    with pytest.raises(TrainingError, match="counts as 2: with differential privacy all clients"):
        total.add(update(0, 2, 3.0))
    with pytest.raises(TrainingError, match="norm nan"):
        total.add(update(0, 1, float("nan")))


def test_parts_are_added():
    algorithm = DPFedAvg(SGD(1.0)).planned(plan(clip=5.0))
    whole = algorithm.start(WEIGHTS)
    part = algorithm.start(WEIGHTS, np.array([0], np.int32))
    part.add(update(0, 1, 3.0, [0], [4.0]))
    whole.add(update(1, 1, 6.0))
    whole.merge(part)
    assert (len(whole), whole.num_short) == (2, 1)
    assert whole.dense["bias"].tolist() == pytest.approx([8.0])


def test_the_noise_has_the_stated_variance_over_ten_thousand_draws():
    algorithm = DPFedAvg(SGD(1.0)).planned(plan())
    after = one_round(algorithm, algorithm.init(BIG))
    drawn = np.concatenate([array.ravel() for array in after.weights.values()])
    assert len(drawn) == 10_000
    # 3 times the clip of 2, over 10 clients; 0.6 +- 3 * 0.6 / sqrt(20000)
    assert drawn.std() == pytest.approx(0.6, abs=0.013)
    assert abs(drawn.mean()) < 0.02


def test_the_mean_is_over_the_expected_cohort_whatever_was_drawn():
    algorithm = DPFedAvg(SGD(1.0)).planned(plan(noise=0.05))
    two = one_round(algorithm, algorithm.init(WEIGHTS), *(update(c, 1, 1.0) for c in (0, 1)))
    assert two.weights["bias"] - WEIGHTS["bias"] == pytest.approx([0.2], abs=0.04)


def test_rounds_have_noise_of_their_own_and_a_round_again_the_same():
    algorithm = DPFedAvg(SGD(1.0)).planned(plan())
    start = algorithm.init(BIG)
    first = one_round(algorithm, start)
    assert one_round(algorithm, start).weights["bias"].tolist() == first.weights["bias"].tolist()
    second = one_round(algorithm, first).weights["bias"] - first.weights["bias"]
    assert abs(np.corrcoef(first.weights["bias"], second)[0, 1]) < 0.05
    other = DPFedAvg(SGD(1.0)).planned(plan(seed=1))
    assert one_round(other, other.init(BIG)).weights["bias"][0] != first.weights["bias"][0]


def test_banded_noise_is_that_of_the_inverse_matrix():
    bands, rounds = 3, 6
    algorithm = DPFedAvg(SGD(1.0)).planned(plan(sampling="blocks", bands=bands, separation=10))
    state, weights = algorithm.init(BIG), [BIG["bias"]]
    plain = DPFedAvg(SGD(1.0)).planned(plan())
    independent = []
    for _ in range(rounds):
        independent.append(one_round(plain, state_of(plain, state.round_num)).weights["bias"])
        state = one_round(algorithm, state)
        weights.append(state.weights["bias"])
    first = correlated.coefficients(bands)
    matrix = sum(c * np.eye(rounds, k=-i) for i, c in enumerate(first))
    expected = np.linalg.solve(matrix, np.stack(independent))
    assert np.diff(np.stack(weights), axis=0) == pytest.approx(expected, abs=1e-4)
    # what it is for: the sum of the rounds has less noise than independent noise of its cost
    assert expected.sum(axis=0).std() < 0.9 * np.stack(independent).sum(axis=0).std()


def state_of(algorithm, round_num):
    from dataclasses import replace

    return replace(algorithm.init(BIG), round_num=round_num)


def test_the_clip_follows_the_quantile():
    # 8 of 10 expected clients are short, 0.5 are asked for: the clip falls by exp(-0.2 * 0.3)
    wide = plan(quantile=0.5, noise=0.3, cohort=10.0)
    algorithm = DPFedAvg(SGD(1.0)).planned(wide)
    state = algorithm.init(WEIGHTS)
    updates = [update(c, 1, 1.0 if c < 8 else 9.0) for c in range(10)]
    after = one_round(algorithm, state, *updates)
    # the count has noise of deviation 0.5 clients
    assert after.private.clip == pytest.approx(2.0 * np.exp(-0.06), rel=0.04)
    assert algorithm.in_round(after).start(WEIGHTS).clip == after.private.clip
    # both together cost what noise 2 alone costs: 1 / 2^2 = 1 / z^2 + 1 / (2 * 5)^2
    costly = plan(quantile=0.5, noise=2.0, cohort=100.0)
    assert costly.update_noise == pytest.approx((1 / 4 - 1 / 100) ** -0.5)


def test_no_mean_without_noise():
    algorithm = DPFedAvg(SGD(1.0)).planned(plan())
    with pytest.raises(TypeError, match="use apply"):
        algorithm.mean_update(algorithm.start(WEIGHTS))
    with pytest.raises(AssertionError, match="not known before `planned`"):
        DPFedAvg(SGD(1.0)).start(WEIGHTS)
