"""Private runs as a whole: what is drawn, what is recorded, what a resumed run ends in."""

import numpy as np
import pytest

from fedgru import algorithms, config
from fedgru.core.errors import ConfigError
from fedgru.engines import registry
from fedgru.engines.jax.engine import JaxEngine
from fedgru.engines.reference import ReferenceEngine
from fedgru.privacy.accounting import Releases, epsilon
from fedgru.training.loop import draw_cohort
from fedgru.training.rounds import FederatedTraining
from tests.training.conftest import results

DP = {"dp_clip": 0.5, "dp_noise": 2.0, "prior": "backoff"}


def test_poisson_cohorts_have_every_size_and_are_drawn_client_by_client(make_task):
    task = make_task(**DP, clients_per_round=2)
    cohorts = [draw_cohort(task, number) for number in range(1, 2001)]
    sizes = np.array([len(cohort) for cohort in cohorts])
    # 6 clients with probability 1/3: 2 on average, variance 4/3, none in (2/3)^6 = 8.8 %
    assert sizes.mean() == pytest.approx(2.0, abs=0.1)
    assert sizes.var() == pytest.approx(4 / 3, abs=0.15)
    assert (sizes == 0).mean() == pytest.approx(0.088, abs=0.025)
    together = np.mean([0 in cohort and 1 in cohort for cohort in cohorts])
    assert together == pytest.approx(1 / 9, abs=0.025)


def test_fixed_cohorts_and_cohorts_in_turn(make_task):
    task = make_task(**DP, clients_per_round=2, dp_sampling="fixed")
    assert {len(draw_cohort(task, number)) for number in range(1, 50)} == {2}
    task = make_task(**DP, clients_per_round=2, dp_mechanism="banded")
    drawn = [draw_cohort(task, number).tolist() for number in range(1, 7)]
    assert sorted(sum(drawn[:3], [])) == list(range(6))
    assert drawn[3:] == drawn[:3]


@pytest.mark.parametrize("engine", [JaxEngine, ReferenceEngine])
def test_a_round_without_clients_has_noise_and_its_epsilon(make_task, engine):
    task = make_task(**DP, clients_per_round=2)
    training = FederatedTraining(engine(task), algorithms.from_settings(task.settings))
    state = training.init()
    result = training.run_round(state, np.zeros(0, np.int64))
    moved = result.state.weights["recurrent"] - state.weights["recurrent"]
    assert moved.std() == pytest.approx(2.0 * 0.5 / 2, rel=0.2)
    assert np.isnan(result.metrics["loss"])
    expected = epsilon(Releases(2.0, "poisson", 2 / 6), 1)
    assert result.state.private.epsilon == pytest.approx(expected)


def test_the_engines_agree(make_task):
    after = []
    for engine in (JaxEngine, ReferenceEngine):
        task = make_task(**DP, clients_per_round=3)
        training = FederatedTraining(engine(task), algorithms.from_settings(task.settings))
        state = training.init()
        for number in (1, 2):
            state = training.run_round(state, draw_cohort(task, number)).state
        after.append(state)
    for name, array in after[0].weights.items():
        assert array == pytest.approx(after[1].weights[name], abs=1e-4)
    assert after[0].private == after[1].private


@pytest.mark.parametrize(
    "given",
    [
        {"dp_adaptive_clip": 0.5, "dp_noise": 0.3, "clients_per_round": 5},
        {"dp_mechanism": "banded", "clients_per_round": 2, "server_optimizer": "adam"},
    ],
)
def test_a_resumed_run_ends_in_the_same_bytes_and_the_same_epsilon(stopped, given):
    whole, partly = stopped(**DP | given)
    from fedgru.workflows import train as train_workflow

    resumed, _, result = train_workflow.resume(partly, "no-folder")
    assert results(resumed) == results(whole)
    rounds = whole.rounds()
    assert rounds["train/epsilon/dp"].tolist() == resumed.rounds()["train/epsilon/dp"].tolist()
    assert (np.diff(rounds["train/epsilon/dp"]) >= 0).all() and rounds["train/epsilon/dp"][-1] > 0
    assert np.isnan(rounds["train/loss/micro"]).all()
    assert whole.facts()["privacy"] == resumed.facts()["privacy"]
    assert result.best.round_num == 4  # validation chooses nothing


def test_an_algorithm_without_noise_is_refused(make_task):
    task = make_task(**DP)
    algorithm = algorithms.FedAvg(algorithms.SGD(1.0))
    with pytest.raises(ConfigError, match="fed_avg does not go with `dp_clip`: it adds no noise"):
        FederatedTraining(JaxEngine(task), algorithm)


def test_a_noise_for_an_epsilon(make_task):
    task = make_task(dp_clip=1.0, dp_epsilon=4.0, clients_per_round=2, rounds=5)
    training = FederatedTraining(JaxEngine(task), algorithms.from_settings(task.settings))
    assert 3.95 < training.algorithm.plan.epsilon(5) <= 4.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dp_noise": 1.0}, "`dp_noise` has no effect without `dp_clip`"),
        ({"dp_clip": 1.0}, "`dp_clip` needs `dp_noise` or `dp_epsilon`, one of the two"),
        ({**DP, "dp_epsilon": 1.0}, "one of the two"),
        ({**DP, "mean": "owners"}, "`mean` owners does not go with `dp_clip`: a mean over the own"),
        ({**DP, "client_weights": "examples"}, "may not count more than another's"),
        ({**DP, "robust": "krum"}, "`robust` krum does not go with `dp_clip`"),
        ({**DP, "algorithm": "fed-nova"}, "`algorithm` fed-nova does not go with `dp_clip`"),
        ({**DP, "agnostic_to": "zone"}, "`agnostic_to` zone does not go with `dp_clip`"),
        ({**DP, "patience": 3}, "may not choose the round. Use `patience` 0."),
        ({**DP, "min_clients": 2}, "reveals the size of its cohort"),
        ({**DP, "step_s": 2.0}, "`step_s` does not go with `dp_clip`: who is on decides"),
        ({**DP, "dp_bands": 2}, "`dp_bands` has no effect with `dp_mechanism` gaussian"),
        ({**DP, "dp_sampling": "fixed"}, "no effect without `clients_per_round`"),
        ({**DP, "dp_mechanism": "banded"}, "needs `clients_per_round`: the cohorts take turns"),
        ({**DP, "engine": "tff"}, "`engine` tff does not know"),
    ],
)
def test_what_does_not_go_together_is_refused(given, message):
    with pytest.raises(ConfigError, match=message.replace("(", "[(]")):
        registry.check(config.load(given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dp_delta": 0.2}, "`dp_delta` is 0.2, expected less than 1 / 6"),
        ({"dp_mechanism": "banded", "clients_per_round": 4}, "at least two cohorts"),
        ({"dp_mechanism": "banded", "clients_per_round": 2, "dp_bands": 4}, "3 cohorts take turns"),
        ({"dp_adaptive_clip": 0.5, "clients_per_round": 3}, "needs more than 20 clients"),
    ],
)
def test_what_needs_the_number_of_clients(make_task, given, message):
    task = make_task(**DP | given)
    with pytest.raises(ConfigError, match=message):
        FederatedTraining(JaxEngine(task), algorithms.from_settings(task.settings))
