"""fedgru/algorithms/attacks.py: by hand, in rounds, and against every robust mean."""

from dataclasses import replace

import numpy as np
import pytest

from fedgru import config
from fedgru.algorithms import attacks, from_settings
from fedgru.algorithms.alie import alie, z_max
from fedgru.algorithms.backdoor import replace_model
from fedgru.algorithms.fed_avg import ClientUpdate
from fedgru.algorithms.fed_sub_avg import FedSubAvg
from fedgru.algorithms.inner_product import inner_product
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
from fedgru.core.errors import ConfigError
from fedgru.engines.base import Gathered
from fedgru.engines.jax.engine import JaxEngine
from fedgru.training.rounds import FederatedTraining, run_round
from tests.algorithms.test_algorithms import WEIGHTS, update
from tests.algorithms.test_faults import Broken
from tests.algorithms.test_faults import update as other_update
from tests.conftest import start

# what two liars would send: both own row 0, the second row 1 too
TRUE = update(3, 10, 1.0, [0], [2.0]), update(5, 1, 3.0, [0, 1], [6.0, 8.0])


def values(sent):
    return [(u.client, u.dense["bias"].tolist(), u.row_update.ravel().tolist()) for u in sent]


@pytest.mark.parametrize("attack", ["sign-flip", "noise"])
def test_what_a_liar_sends(make_task, attack):
    task = make_task(attack=attack, attackers=2, attack_scale=3.0)
    liar, honest = sorted(task.attackers)[0], min(set(range(6)) - task.attackers)
    assert len(task.attackers) == 2
    sent = other_update(client=liar, row_update=np.array([[3, -3], [3, 3]], np.float32))
    found = attacks.tamper(task, sent, 4)
    if attack == "sign-flip":
        assert found.dense["bias"].tolist() == [-3.0] * 4
        assert found.row_update.tolist() == [[-9.0, 9.0], [-9.0, -9.0]]
    else:
        draws = np.stack(
            [attacks.tamper(task, sent, round_num).row_update for round_num in range(400)]
        )
        # deviation 3 times the root mean square of 3: 9 give or take 3 * 9 / sqrt(2 * 1600)
        assert draws.std() == pytest.approx(9, abs=0.5)
        assert abs(draws.mean()) < 0.7
    told = replace(sent, client=honest)
    assert attacks.tamper(task, told, 4) is told


def test_label_flip_is_in_the_liars_training_data_alone(make_task):
    task, plain = make_task(attack="label-flip", attackers=2), make_task()
    for client in range(6):
        flipped, honest = task.local_data(client), plain.local_data(client)
        np.testing.assert_array_equal(flipped.mask, honest.mask)
        real = honest.mask > 0
        expected = honest.targets[real]
        if client in task.attackers:
            expected = task.num_classes - 1 - expected
        np.testing.assert_array_equal(flipped.targets[real], expected)


def test_alie_by_hand():
    # bias: mean 2, deviation 1, with one freedom less it would be sqrt(2); row 0: 4 and 2; the only
    # owner of row 1 has no deviation. Examples do not count.
    assert values(alie(TRUE, 1.5)) == [(3, [0.5], [1.0]), (5, [0.5], [1.0, 8.0])]
    assert [u.num_examples for u in alie(TRUE, 1.5)] == [10, 1]
    assert values(alie(TRUE, 0.0)) == [(3, [2.0], [4.0]), (5, [2.0], [4.0, 8.0])]


def test_how_far_alie_strays():
    # 100 clients, 20 liars: s = 51 - 20 = 31, the quantile at (80 - 31) / 80 = 0.6125
    assert z_max(100, 20) == pytest.approx(0.2858, abs=1e-4)
    assert z_max(20, 1) == 0  # 9 / 19 is below a half
    assert z_max(21, 15) == pytest.approx(0.9674, abs=1e-4)  # a majority: 5 / 6
    assert z_max(4, 4) == z_max(4, 3) == 0


def test_inner_product_by_hand():
    # half of minus what the plain mean made of the honest ones; nobody honest owns row 1
    honest = {"bias": np.array([5.0], np.float32), "rows": np.array([[4.0], [0.0], [7.0]])}
    assert values(inner_product(TRUE, honest, 0.5)) == [(3, [-2.5], [-2.0]), (5, [-2.5], [-2.0, 0])]


def test_model_replacement_by_hand():
    assert values(replace_model(TRUE, 2.5)) == [(3, [2.5], [5.0]), (5, [7.5], [15.0, 20.0])]


def sent_by(*honest, **settings):
    liars = attacks.liars_of(config.load({"attackers": 2, **settings}), WEIGHTS)
    for one in TRUE[::-1]:
        liars.hold(one)
    for one in honest:
        liars.see(one)
    return values(liars.send())


def test_liars_act_together():
    honest = update(0, 1, 2.0, [0], [4.0]), update(1, 3, 6.0, [2], [1.0])
    # 4 clients, 2 liars: s = 3 - 2, the quantile at (2 - 1) / 2 is 0
    assert sent_by(*honest, attack="alie") == values(alie(TRUE, 0.0))
    assert sent_by(*honest, attack="alie", attack_scale=1.5) == values(alie(TRUE, 1.5))
    assert sent_by(*honest, attack="backdoor") == values(replace_model(TRUE, 2.0))  # 4 / 2
    assert sent_by(*honest, attack="backdoor", attack_scale=7.0) == values(replace_model(TRUE, 7.0))
    # honest mean: bias (2 + 18) / 4; row 0 over its owner 4, over all 4 / 4
    for mean, row in (("owners", 4.0), ("clients", 1.0)):
        given = {"attack": "inner-product", "mean": mean}
        expected = [(3, [-2.5], [-row / 2]), (5, [-2.5], [-row / 2, 0.0])]
        assert sent_by(*honest, **given) == expected
        scaled = sent_by(*honest, **given, attack_scale=2.0)
        assert scaled == [(3, [-10.0], [-2 * row]), (5, [-10.0], [-2 * row, 0.0])]
    # nobody honest is in
    assert sent_by(attack="inner-product") == [(3, [0.0], [0.0]), (5, [0.0], [0.0, 0.0])]


@pytest.mark.parametrize("attack", ["alie", "inner-product", "backdoor"])
def test_a_round_with_liars_that_act_together(make_task, attack):
    given = {"attackers": 3, "attack_scale": 1.5, "attack": attack, "robust": "median"}
    task = make_task(**given)
    algorithm, state = start(task)
    engine, cohort = JaxEngine(task), np.arange(6)
    true = list(engine.local_updates(state.weights, cohort, 1))
    liars = [u for u in true if u.client in task.attackers]
    honest = [u for u in true if u.client not in task.attackers]
    plain = FedSubAvg(SGD(1.0))
    total = plain.start(state.weights)
    for one in honest:
        total.add(one)
    lies = {
        "alie": lambda: alie(liars, 1.5),
        "inner-product": lambda: inner_product(liars, plain.mean_update(total), 1.5),
        "backdoor": lambda: replace_model(liars, 1.5),
    }[attack]()
    expected = algorithm.start(state.weights)
    for one in [*honest, *lies]:
        expected.add(one)
    found = run_round(engine, algorithm, state, cohort)
    for name, array in algorithm.apply(state, expected).weights.items():
        assert found.state.weights[name].tobytes() == array.tobytes()
    assert (found.num_clients, found.faults) == (6, {})
    assert found.metrics["loss"] == pytest.approx(
        sum(u.loss_sum for u in true) / sum(u.num_examples for u in true)
    )


@pytest.mark.parametrize("attack", ["alie", "inner-product", "backdoor"])
def test_parts_of_a_cohort_give_the_same(make_task, attack):
    """As the actors of engine ray gather them."""
    task = make_task(attackers=3, attack=attack, robust="median")
    algorithm, state = start(task)
    engine = JaxEngine(task)
    whole = engine.gather(algorithm, state.weights, np.arange(6), 1)
    liars = attacks.liars_of(task.settings, state.weights)
    joined = Gathered(task.settings, algorithm.start(state.weights), liars)
    for clients in ([4, 1], [0, 5, 2], [3]):
        updates = list(engine.local_updates(state.weights, clients, 1))
        row_ids = np.unique(np.concatenate([one.row_ids for one in updates]))
        part_liars = attacks.liars_of(task.settings, state.weights, row_ids)
        part = Gathered(task.settings, algorithm.start(state.weights, row_ids), part_liars)
        for one in updates:
            part.add(task, one, state.weights, 1)
        joined.merge(part)
    joined.add_lies(state.weights)
    expected = algorithm.apply(state, whole.total).weights
    for name, array in algorithm.apply(state, joined.total).weights.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-6)
    assert joined.loss_sum == pytest.approx(whole.loss_sum)


def test_lies_that_cannot_be_used_are_told(make_task):
    task = make_task(attackers=3, attack="backdoor", attack_scale=1e6)
    algorithm, state = start(task)
    first, second, third = sorted(task.attackers)
    engine = Broken(task)
    engine.spoilt = {second: {"loss_sum": float("nan")}}
    found = run_round(engine, algorithm, state, np.arange(6))
    assert found.faults == {"too large": [first, third], "not finite": [second]}
    assert found.num_clients == 3


def test_a_liar_whose_lie_is_not_used_keeps_nothing(make_task):
    kept = {}
    for scale in (1.0, 1e6):
        given = {"attack": "backdoor", "attackers": 2, "attack_scale": scale}
        task = make_task(algorithm="fed-per", personal_weights="head_bias", **given)
        training = FederatedTraining(JaxEngine(task), from_settings(task.settings))
        training.run_round(training.init(), np.arange(6))
        store = training.per_client.store
        kept[scale] = {client for client in range(6) if store.get(client) is not None}
        training.close()
    assert kept == {1.0: set(range(6)), 1e6: set(range(6)) - task.attackers}


def test_one_by_one_no_liar_acts_together(make_task):
    task = make_task(attackers=1, attack="alie")
    (liar,) = task.attackers
    with pytest.raises(ValueError) as error:
        attacks.tamper(task, other_update(client=liar), 1)
    assert str(error.value) == "the liars of alie send their updates together: use Liars"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"attackers": 3}, "`attackers` has no effect without `attack`."),
        ({"backdoor_target": "Bar"}, "`backdoor_target` has no effect without `attack`."),
        (
            {"attack": "alie", "attackers": 1, "backdoor_trigger": "Bar"},
            "`backdoor_trigger` has no effect with `attack` alie. Use `attack` backdoor, or leave "
            "it out.",
        ),
        (
            {"attack": "noise"},
            "`attack` noise needs `attackers`, the number of malicious clients.",
        ),
        (
            {"attack": "label-flip", "attackers": 1, "attack_scale": 2.0},
            "`attack_scale` has no effect with `attack` label-flip.",
        ),
        (
            {"attack": "alie", "attackers": 1, "buffer_size": 5},
            "`attack` alie needs rounds with a cohort, whose liars act together, which "
            "`buffer_size` has not: leave one of them out.",
        ),
    ],
)
def test_settings_that_do_not_go_together(given, message):
    with pytest.raises(ConfigError) as error:
        config.load(given)
    assert str(error.value) == message


# Synthetic: 20 clients, 4 of them liars, updates of 400 weights around a common one.
NUM, LIARS, SIZE = 20, 4, 400
NOTHING = {"rows": np.zeros((1, 1), np.float32), "kernel": np.zeros(SIZE, np.float32)}
RULES = {
    "mean": FedSubAvg(SGD(1.0)),
    "median": Median(SGD(1.0)),
    "trimmed-mean": TrimmedMean(SGD(1.0), 0.2),
    "krum": Krum(SGD(1.0), 0.2),
    "bulyan": Bulyan(SGD(1.0), 0.2),
    "geometric-median": GeometricMedian(SGD(1.0)),
    "centred-clipping": CentredClipping(SGD(1.0), 20.0),
    "norm-bounding": NormBounding(SGD(1.0), 20.0),
}


def drawn_update(client, values):
    nothing = np.zeros((0, 1), np.float32)
    return ClientUpdate(
        *(client, 10, {"kernel": values.astype(np.float32)}, np.array([], np.int32), nothing, 0, 0)
    )


def changed(true, change):
    return [drawn_update(u.client, change(u.dense["kernel"])) for u in true]


@pytest.fixture(scope="module")
def synthetic_cohort():
    """The honest updates, their mean, and what the liars send by each attack."""
    draw = np.random.default_rng(0)
    true = [drawn_update(client, 0.3 + draw.normal(size=SIZE)) for client in range(NUM)]
    liars, honest = true[:LIARS], true[LIARS:]
    mean = np.mean([u.dense["kernel"] for u in honest], axis=0)
    with_mean = NOTHING | {"kernel": mean}
    planted = changed(liars, lambda v: v + 8 * np.eye(1, SIZE)[0])  # all in one weight
    sent = {
        "none": liars,
        "sign-flip": changed(liars, lambda v: -10 * v),
        "noise": changed(liars, lambda v: 10 * draw.normal(size=SIZE)),
        "alie": alie(liars, z_max(NUM, LIARS)),
        "alie, far": alie(liars, 1.5),
        "inner-product": inner_product(liars, with_mean, 0.5),
        "inner-product, far": inner_product(liars, with_mean, 10.0),
        "backdoor": replace_model(planted, NUM / LIARS),
    }
    return honest, mean, sent


def aggregate(rule, updates):
    total = rule.start(NOTHING)
    for one in updates:
        total.add(one)
    return rule.mean_update(total)["kernel"]


# The part of the honest mean that is left of it, below 0.57: "slows"; below zero: "turns".
MOVES = {
    "sign-flip": {"mean": "turns"},
    "noise": {},
    "alie": {"bulyan": "slows"},
    "alie, far": dict.fromkeys(set(RULES) - {"krum"}, "slows"),
    "inner-product": {
        **{"median": "slows", "trimmed-mean": "slows", "geometric-median": "slows"},
        "bulyan": "turns",
    },
    "inner-product, far": dict.fromkeys(set(RULES) - {"krum", "bulyan"}, "slows")
    | {"mean": "turns"},
    "none": {},
}


@pytest.mark.parametrize("attack", MOVES)
def test_which_mean_an_attack_moves(synthetic_cohort, attack):
    honest, mean, sent = synthetic_cohort
    moved = {}
    for name, rule in RULES.items():
        left = aggregate(rule, [*sent[attack], *honest]) @ mean / (mean @ mean)
        if left < 0.57:
            moved[name] = "turns" if left < 0 else "slows"
    assert moved == MOVES[attack]


def test_noise_and_a_backdoor_spoil_what_takes_them_in(synthetic_cohort):
    honest, mean, sent = synthetic_cohort
    far, planted = set(), set()
    for name, rule in RULES.items():
        gap = aggregate(rule, [*sent["noise"], *honest]) - mean
        if np.linalg.norm(gap) > np.linalg.norm(mean):
            far.add(name)
        if aggregate(rule, [*sent["backdoor"], *honest])[0] > 1.5:  # of 8
            planted.add(name)
    assert far == {"mean"}
    # a bound on distances leaves a share of it in, a choice of clients or values does not
    assert planted == {"mean", "geometric-median", "centred-clipping", "norm-bounding"}


def test_krum_keeps_all_liars_that_stray_a_little(synthetic_cohort):
    honest, _, sent = synthetic_cohort
    kept = {
        attack: int((RULES["krum"].choose([*lies, *honest]) < LIARS).sum())
        for attack, lies in sent.items()
    }
    assert kept["alie"] == kept["inner-product"] == LIARS
    far = ("sign-flip", "noise", "alie, far", "inner-product, far", "backdoor")
    assert {attack: kept[attack] for attack in far} == dict.fromkeys(far, 0)
