"""fedgru/algorithms/robust.py: middles by hand, and who is kept."""

import pytest

from fedgru import algorithms
from fedgru.algorithms.robust import Krum, Median, TrimmedMean
from fedgru.algorithms.server_optimizers import SGD
from fedgru.config import ServerSettings, Settings
from tests.algorithms.test_algorithms import WEIGHTS, update


def mean_of(algorithm, *updates):
    total = algorithm.start(WEIGHTS)
    for one in updates:
        total.add(one)
    mean = algorithm.mean_update(total)
    return mean["bias"].tolist(), mean["rows"].ravel().tolist()


# row 0 is owned by all five, row 1 by clients 1 and 3, row 2 by nobody
FIVE = (
    update(0, 1, 1.0, [0], [5.0]),
    update(1, 100, 2.0, [0, 1], [1.0, 2.0]),
    update(2, 1, 3.0, [0], [2.0]),
    update(3, 1, 5.0, [0, 1], [4.0, 6.0]),
    update(4, 1, -100.0, [0], [100.0]),
)


def test_the_median_does_not_count_examples():
    # bias: -100, 1, 2, 3, 5; row 0: 1, 2, 4, 5, 100; row 1: 2, 6, where 2 is nearest to zero
    assert mean_of(Median(SGD(1.0)), *FIVE) == ([2.0], [4.0, 2.0, 0.0])
    # of four: between 1 and 3 is 1, between -2 and -100 it is -2, between -100 and 1 zero
    assert mean_of(Median(SGD(1.0)), *FIVE[:3], FIVE[4])[0] == [1.0]
    negative = [update(client, 1, bias) for client, bias in enumerate((-100.0, -2.0, 7.0, -300.0))]
    assert mean_of(Median(SGD(1.0)), *negative)[0] == [-2.0]
    assert mean_of(Median(SGD(1.0)), FIVE[0], FIVE[4])[0] == [0.0]


def test_the_trimmed_mean():
    # a share of 0.2 of five is one at each end: (1 + 2 + 3) / 3 and (2 + 4 + 5) / 3;
    # of two it would leave nobody: the median nearest to zero
    bias, rows = mean_of(TrimmedMean(SGD(1.0), 0.2), *FIVE)
    assert bias == [2.0]
    assert rows == pytest.approx([11 / 3, 2.0, 0.0])
    # 0.3 of five is 1.5, rounded up to two: the median is left
    assert mean_of(TrimmedMean(SGD(1.0), 0.3), *FIVE)[0] == [2.0]
    # nothing cut: the plain mean
    assert mean_of(TrimmedMean(SGD(1.0), 0.0), *FIVE)[0] == pytest.approx([-89 / 5])


def test_krum_leaves_out_who_lies_far_from_the_others():
    # one liar among five: scores are the two smallest squared distances. Biases 1, 2, 3, 5, -100:
    # 1: 1 + 4, 2: 1 + 1, 3: 1 + 4, 5: 4 + 9, -100: 101^2 + 102^2. Four stay.
    krum = Krum(SGD(1.0), 0.2)
    assert krum.choose(list(FIVE)).tolist() == [0, 1, 2, 3]
    # weighted by examples: (1 + 200 + 3 + 5) / 103; row 0 the same, row 1 over its owners
    bias, rows = mean_of(krum, *FIVE)
    assert bias == pytest.approx([209 / 103])
    assert rows == pytest.approx([(5 + 100 + 2 + 4) / 103, (200 + 6) / 101, 0.0])
    plain = mean_of(Krum(SGD(1.0), 0.2, owners=False), *FIVE)[1]
    assert plain == pytest.approx([111 / 103, 206 / 103, 0.0])


def test_krum_keeps_few_as_they_are():
    assert Krum(SGD(1.0), 0.4).choose(list(FIVE[:3])).tolist() == [0, 1, 2]
    # four: at most (4 - 3) // 2 = 0 liars, so all stay
    assert Krum(SGD(1.0), 0.4).choose(list(FIVE[1:])).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("algorithm", [Median(SGD(1.0)), TrimmedMean(SGD(1.0), 0.2)])
def test_cohort_order_changes_nothing(algorithm):
    assert mean_of(algorithm, *FIVE) == mean_of(algorithm, *FIVE[::-1])


def test_settings_choose():
    for robust, kind in (("median", Median), ("trimmed-mean", TrimmedMean), ("krum", Krum)):
        chosen = algorithms.from_settings(
            Settings(server=ServerSettings(robust=robust, server_lr=0.5))
        )
        assert (type(chosen), chosen.server_optimizer) == (kind, SGD(0.5))
    assert (
        algorithms.from_settings(Settings(server=ServerSettings(robust="krum"))).liar_share == 0.2
    )
    chosen = algorithms.from_settings(
        Settings(server=ServerSettings(robust="krum", mean="clients", liar_share=0.1))
    )
    assert (chosen.owners, chosen.liar_share) == (False, 0.1)
