"""fedgru/algorithms/coordinate_wise.py and krum.py by hand; what all robust means share."""

import numpy as np
import pytest

from fedgru import algorithms, config
from fedgru.algorithms import registry
from fedgru.algorithms.fed_avg import ClientUpdate, FedAvg
from fedgru.algorithms.fed_sub_avg import FedSubAvg
from fedgru.algorithms.krum import krum_scores
from fedgru.algorithms.robust import (
    Bulyan,
    CentredClipping,
    GeometricMedian,
    Krum,
    Median,
    NormBounding,
    TrimmedMean,
)
from fedgru.algorithms.server_optimizers import SGD
from fedgru.algorithms.update_list import squared_distances
from fedgru.core.errors import ConfigError
from fedgru.training.per_client import OneRound, PerClientRounds
from tests.algorithms.test_algorithms import WEIGHTS, update
from tests.algorithms.toy import Toy, rounds_of


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
    # one liar among five: a score is the sum of the two smallest squared distances, (bias, row 0,
    # row 1) of client 0 (1, 5, 0), 1 (2, 1, 2), 2 (3, 2, 0), 3 (5, 4, 6), 4 (-100, 100, 0):
    # 0: 13 + 21, 1: 6 + 21, 2: 6 + 13, 3: 34 + 44, 4: far. Four stay.
    krum = Krum(SGD(1.0), 0.2)
    assert squared_distances(FIVE)[:4, :4].tolist() == [
        [0, 21, 13, 53],
        [21, 0, 6, 34],
        [13, 6, 0, 44],
        [53, 34, 44, 0],
    ]
    assert krum_scores(squared_distances(FIVE), 1)[:4].tolist() == [34, 27, 19, 78]
    assert krum.choose(FIVE).tolist() == [0, 1, 2, 3]
    # weighted by examples: (1 + 200 + 3 + 5) / 103; row 0 the same, row 1 over its owners
    bias, rows = mean_of(krum, *FIVE)
    assert bias == pytest.approx([209 / 103])
    assert rows == pytest.approx([(5 + 100 + 2 + 4) / 103, (200 + 6) / 101, 0.0])
    plain = mean_of(Krum(SGD(1.0), 0.2, owners=False), *FIVE)[1]
    assert plain == pytest.approx([111 / 103, 206 / 103, 0.0])


def test_krum_sees_an_attack_in_the_rows_alone():
    # by bias alone client 4 has the lowest score, 0.25 + 0.25, and client 0 would have to go
    honest = [update(n, 1, bias, [0], [0.0]) for n, bias in enumerate((1.0, 2.0, 3.0, 3.5))]
    assert Krum(SGD(1.0), 0.2).choose([*honest, update(4, 1, 2.5, [2], [9.0])]).tolist() == [
        *(0, 1, 2, 3)
    ]


def test_krum_keeps_few_as_they_are():
    assert Krum(SGD(1.0), 0.4).choose(FIVE[:3]).tolist() == [0, 1, 2]
    # four: at most (4 - 3) // 2 = 0 liars, so all stay
    assert Krum(SGD(1.0), 0.4).choose(FIVE[1:]).tolist() == [0, 1, 2, 3]


EVERY_RULE = [
    Median(SGD(1.0)),
    TrimmedMean(SGD(1.0), 0.2),
    Krum(SGD(1.0), 0.2),
    Bulyan(SGD(1.0), 0.2),
    GeometricMedian(SGD(1.0)),
    CentredClipping(SGD(1.0), 2.0),
    NormBounding(SGD(1.0), 2.0),
]


@pytest.mark.parametrize("algorithm", EVERY_RULE, ids=lambda rule: rule.name)
def test_cohort_order_changes_nothing(algorithm):
    seven = [*FIVE, update(5, 1, 2.5, [1], [3.0]), update(6, 2, 1.5, [0], [4.0])]
    expected = mean_of(algorithm, *seven)
    found = mean_of(algorithm, *seven[::-1])
    assert found[0] == pytest.approx(expected[0]) and found[1] == pytest.approx(expected[1])


def drawn(seed):
    """Ten updates of clients that own other rows, not all of them any."""
    draw = np.random.default_rng(seed)
    for client in range(10):
        ids = np.flatnonzero(draw.random(12) < 0.3)
        yield ClientUpdate(
            client=client,
            num_examples=int(draw.integers(1, 50)),
            dense={"kernel": draw.normal(size=(4, 3)).astype(np.float32)},
            row_ids=ids.astype(np.int32),
            row_update=draw.normal(size=(len(ids), 5)).astype(np.float32),
            loss_sum=0.0,
            num_correct=0.0,
        )


NEUTRAL = {
    "krum": lambda owners: Krum(SGD(1.0, 0.9), 0.0, owners=owners),
    "geometric median, nu": lambda owners: GeometricMedian(SGD(1.0, 0.9), owners=owners, nu=1e30),
    "geometric median, none": lambda owners: GeometricMedian(
        SGD(1.0, 0.9), owners=owners, iterations=0
    ),
    "centred clipping": lambda owners: CentredClipping(SGD(1.0, 0.9), 1e30, owners=owners),
    "centred clipping, twice": lambda owners: CentredClipping(
        SGD(1.0, 0.9), 1e30, owners=owners, iterations=2
    ),
    "norm bounding": lambda owners: NormBounding(SGD(1.0, 0.9), 1e30, owners=owners),
}
START = {"rows": np.ones((12, 5), np.float32), "kernel": np.ones((4, 3), np.float32)}


def after_three_rounds(algorithm):
    state = algorithm.init(START)
    for round_num in range(3):
        total = algorithm.start(state.weights)
        for one in drawn(round_num):
            total.add(one)
        state = algorithm.apply(state, total)
    return {name: array.tobytes() for name, array in state.weights.items()}


@pytest.mark.parametrize("owners", [True, False])
@pytest.mark.parametrize("rule", NEUTRAL)
def test_the_neutral_setting_is_the_plain_mean_to_the_bit(rule, owners):
    plain = (FedSubAvg if owners else FedAvg)(SGD(1.0, 0.9))
    assert after_three_rounds(NEUTRAL[rule](owners)) == after_three_rounds(plain)


def test_bulyan_without_liars_is_the_trimmed_mean_that_cuts_nothing_to_the_bit():
    bulyan, trimmed = Bulyan(SGD(1.0), 0.0), TrimmedMean(SGD(1.0), 0.0)
    assert after_three_rounds(bulyan) == after_three_rounds(trimmed)


KINDS = {
    "median": (Median, {}),
    "trimmed-mean": (TrimmedMean, {}),
    "krum": (Krum, {}),
    "bulyan": (Bulyan, {}),
    "geometric-median": (GeometricMedian, {}),
    "centred-clipping": (CentredClipping, {"clip_norm": 3.0}),
    "norm-bounding": (NormBounding, {"clip_norm": 3.0}),
}


def chosen(**settings):
    return algorithms.from_settings(config.load({"head": "dense"} | settings))


@pytest.mark.parametrize("robust", KINDS)
def test_settings_choose(robust):
    kind, needed = KINDS[robust]
    found = chosen(robust=robust, server_lr=0.5, **needed)
    assert (type(found), found.server_optimizer) == (kind, SGD(0.5))
    assert found.over_owners


def test_settings_reach_the_rules():
    assert chosen(robust="krum").liar_share == chosen(robust="bulyan").liar_share == 0.2
    krum = chosen(robust="krum", mean="clients", liar_share=0.1)
    assert (krum.over_owners, krum.liar_share) == (False, 0.1)
    assert chosen(robust="geometric-median").iterations == 3
    assert chosen(robust="geometric-median", robust_iterations=5).iterations == 5
    clipping = chosen(robust="centred-clipping", clip_norm=3.0, mean="clients")
    assert (clipping.radius, clipping.iterations, clipping.over_owners) == (3.0, 1, False)
    assert chosen(robust="norm-bounding", clip_norm=3.0).bound == 3.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"robust": "median", "liar_share": 0.1},
            "`liar_share` has no effect with `robust` median. Use `robust` trimmed-mean, krum or "
            "bulyan, or leave it out.",
        ),
        (
            {"robust": "krum", "clip_norm": 2.0},
            "`clip_norm` has no effect with `robust` krum. Use `robust` norm-bounding or "
            "centred-clipping, or leave it out.",
        ),
        (
            {"robust_iterations": 2},
            "`robust_iterations` has no effect with `robust` none. Use `robust` geometric-median "
            "or centred-clipping, or leave it out.",
        ),
        (
            {"robust": "norm-bounding"},
            "`robust` norm-bounding needs `clip_norm`, such as `clip_norm` 1.",
        ),
        (
            {"robust": "bulyan", "mean": "clients"},
            "`mean` clients has no effect with `robust` bulyan, which averages each id's row over "
            "the clients that own it. Leave it out.",
        ),
    ],
)
def test_settings_that_do_not_go_together(given, message):
    with pytest.raises(ConfigError) as error:
        config.load(given)
    assert str(error.value) == message


def refused(settings):
    try:
        registry.check(settings)
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_every_algorithm_goes_with_a_robust_mean_or_refuses_it(name, monkeypatch):
    clients = [(1.0, 0.5, 2, 3), (2.0, -0.5, 1, 5)]
    monkeypatch.setattr(PerClientRounds, "engine_of", lambda self, rule: Toy(clients, rule))
    monkeypatch.setattr(OneRound, "train_losses", lambda *_: {0: 1.0, 1: 2.0})
    own_mean = name in ("fed-nova", "agnostic-fl", "q-fed-avg")
    for robust, (_, needed) in KINDS.items():
        by_sgd = {"client_optimizer": "sgd", "client_lr": 0.1, "personal_weights": "w"}
        if name != "fed-per":
            del by_sgd["personal_weights"]
        settings = config.load({"algorithm": name, "robust": robust, **needed, **by_sgd})
        if own_mean or (name == "mime-lite" and needed):
            assert refused(settings) == (
                f"`robust` {robust} does not go with `algorithm` {name}. Leave one of the two out."
            )
            continue
        assert refused(settings) is None
        state, _ = rounds_of(algorithms.from_settings(settings), clients, 2)
        assert all(np.isfinite(array).all() for array in state.weights.values())
        moved = state.weights["rows" if name == "fed-per" else "w"]
        assert (moved != 1).any()
