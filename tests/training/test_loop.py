"""fedgru/training/loop.py: the round loop."""

import numpy as np
import pytest

from fedgru import algorithms
from fedgru.core import seeding
from fedgru.core.errors import ConfigError, TrainingError
from fedgru.engines.base import Engine, RoundResult
from fedgru.engines.jax.engine import JaxEngine
from fedgru.evaluation.evaluate import evaluate
from fedgru.models.gru import init_weights
from fedgru.training import loop as round_loop
from fedgru.training import rounds
from fedgru.training.rounds import FederatedTraining


class ScriptedEngine(Engine):
    """Every round adds 1 to the weights; the validation loss follows a script."""

    runs_whole_rounds = True

    def __init__(self, task, losses):
        super().__init__(task)
        self.losses, self.cohorts = losses, []

    def run_round(self, algorithm, state, cohort):
        self.cohorts.append(cohort.tolist())
        weights = {name: w + 1 for name, w in state.weights.items()}
        new = type(state)(weights, state.optimizer, state.round_num + 1)
        return RoundResult(new, {"loss": 2.0, "acc@1": 0.5}, len(cohort), 10)


@pytest.fixture
def scripted(make_task, monkeypatch):
    def run(losses, start=None, stop_after=None, **overrides):
        task = make_task(rounds=len(losses), **overrides)
        engine = ScriptedEngine(task, [9.0, *losses])

        class Scripted:
            def __init__(self, loss):
                self.loss = loss

            def summary(self):
                return {"val/loss/micro": self.loss, "val/acc@1/micro": 1 / self.loss}

        script = iter(engine.losses[0 if start is None else start.state.round_num + 1 :])
        monkeypatch.setattr(rounds, "evaluate", lambda *_, clients: Scripted(next(script)))
        rows, checkpoints = [], []

        def on_round(round_num, row, seconds):
            rows.append((round_num, row))
            return "enough" if round_num == stop_after else None

        result = round_loop.train(
            FederatedTraining(engine, algorithms.from_settings(task.settings)),
            on_round,
            checkpoints.append,
            start=start,
        )
        return engine, result, rows, checkpoints

    return run


def test_best_is_not_last(scripted):
    _, result, rows, checkpoints = scripted([3.0, 2.0, 2.5, 2.6], patience=9)
    assert (result.best.round_num, result.last.round_num) == (2, 4)
    assert (result.best_value, result.why) == (2.0, "all rounds done")
    assert [point.best.round_num for point in checkpoints] == [0, 1, 2, 2, 2]
    # the kept weights are those of round 2: each round added 1 to the bias, zero at the start
    assert np.unique(result.best.weights["bias"]).tolist() == [2.0]
    assert np.unique(result.last.weights["bias"]).tolist() == [4.0]
    assert [round_num for round_num, _ in rows] == [0, 1, 2, 3, 4]
    assert rows[0][1]["train/loss/micro"] is None and rows[0][1]["val/loss/micro"] == 9.0


@pytest.mark.parametrize(
    ("prior", "what"), [("backoff", "the prior alone"), ("none", "the untrained model")]
)
def test_no_round_is_better_than_before_training(scripted, caplog, prior, what):
    _, result, _, _ = scripted([9.5, 9.25], patience=9, prior=prior)
    assert (result.best.round_num, result.best_value) == (0, 9.0)
    assert not result.best.weights["bias"].any()  # the weights that training began with
    assert caplog.messages[-1] == (
        f"no round was better than before training (val/loss/micro 9.0000): what counts is {what}"
    )


def test_a_validation_loss_that_explodes_stops(scripted):
    with pytest.raises(TrainingError, match="^training diverged: the val loss of round 2 is 1e"):
        scripted([3.0, 1e9])


def test_stops_early(scripted):
    _, result, rows, _ = scripted([3.0, 2.0, 2.5, 2.6, 1.0], patience=2)
    assert result.last.round_num == 4 and len(rows) == 5
    assert result.why == "val/loss/micro has not improved in 2 rounds"


def test_stops_when_on_round_says_why(scripted):
    _, result, _, checkpoints = scripted([3.0, 2.0, 1.0], stop_after=2)
    assert (result.why, result.last.round_num, result.best.round_num) == ("enough", 2, 2)
    assert [point.best.round_num for point in checkpoints] == [0, 1, 2]


def test_stopped_before_any_round_may_be_the_best(scripted, caplog):
    # alpha rises until round 5 of 10: no earlier round counts, and there is no best value to log
    _, result, _, _ = scripted([3.0] * 10, stop_after=2, agnostic_to="weekend")
    assert (result.best.round_num, result.best_value, result.why) == (0, None, "enough")
    assert caplog.messages[-1] == (
        "no round ran under the final alpha: what counts is the untrained model"
    )


@pytest.mark.parametrize("patience", [2, 3])
def test_whoever_goes_on_from_a_checkpoint_ends_in_the_same_place(scripted, patience):
    # round 4 is the second without improvement: with patience 2 it is the last, also for who
    # was stopped after it and before the end was written down
    losses = [3.0, 2.0, 2.5, 2.6, 1.0]
    _, result, rows, checkpoints = scripted(losses, patience=patience, clients_per_round=3)
    assert result.last.round_num == {2: 4, 3: 5}[patience]
    for point in checkpoints:
        _, resumed, later, more = scripted(losses, point, patience=patience, clients_per_round=3)
        done = point.state.round_num
        assert (resumed.best_value, resumed.why) == (result.best_value, result.why)
        assert resumed.best.round_num == result.best.round_num
        assert rows[done + 1 :] == later
        assert [p.stopping for p in checkpoints[done + 1 :]] == [p.stopping for p in more]
        for at_once, resumed_point in zip(checkpoints[done + 1 :], more, strict=True):
            assert [row for row, _ in at_once.rows] == [row for row, _ in resumed_point.rows]
        for name, weights in result.last.weights.items():
            assert np.array_equal(resumed.last.weights[name], weights)
        assert point.stopping == checkpoints[done].stopping  # going on leaves it as it is


def test_the_stop_metric_decides_and_knows_its_direction(scripted):
    _, result, _, _ = scripted([3.0, 2.0, 2.5], stop_metric="val/acc@1/micro")
    assert (result.best.round_num, result.best_value) == (2, 0.5)


def test_cohorts_are_drawn_by_seed_and_round(scripted):
    cohorts = scripted([3.0, 2.0, 1.0], clients_per_round=3)[0].cohorts
    assert cohorts == scripted([3.0, 2.0, 1.0], clients_per_round=3)[0].cohorts
    assert cohorts != scripted([3.0, 2.0, 1.0], clients_per_round=3, seed=5)[0].cohorts
    assert len({tuple(c) for c in cohorts}) > 1
    assert all(len(set(c)) == 3 and c == sorted(c) for c in cohorts)
    assert scripted([3.0])[0].cohorts == [[0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    "key", ["val/los/micro", "test/loss/micro", "val/loss", "loss", "val/loss/x"]
)
def test_a_misspelt_stop_metric(key):
    with pytest.raises(ConfigError) as error:
        round_loop.parse_stop_metric(key)
    assert str(error.value) == (
        f"`stop_metric` is {key}, expected val/METRIC/AVERAGE with METRIC one of acc@1, acc@5, "
        "acc@10, mrr, ndcg, loss and AVERAGE micro (each check-in once) or macro (each client "
        "once)."
    )


def test_one_client_with_one_local_step_is_plain_sgd(make_task):
    # one stream, so that train and evaluation see the same state at each check-in
    task = make_task(
        clients_per_round=1,
        rounds=1,
        local_epochs=1,
        batch_size=1,
        seq_len=40,
        client_optimizer="sgd",
        client_lr=0.5,
    )
    engine = JaxEngine(task)
    algorithm = algorithms.from_settings(task.settings)
    after = round_loop.train(
        FederatedTraining(engine, algorithm), lambda *_: None, lambda state: None
    ).last.weights
    (client,) = round_loop.draw_cohort(task, 1)
    assert len(task.local_data(client).mask) == 1
    before = init_weights(task.spec, seeding.rng(0, "weights"))
    moved = after["head_bias"] - before["head_bias"]

    def mean_loss(class_, step):
        bias = before["head_bias"].copy()
        bias[class_] += step
        found = evaluate(engine, before | {"head_bias": bias}, "train")
        return found.scores.values["loss"][found.client_index == client].mean()

    gradient = [(mean_loss(k, 0.01) - mean_loss(k, -0.01)) / 0.02 for k in range(task.num_classes)]
    assert moved.tolist() == pytest.approx([-0.5 * g for g in gradient], abs=2e-4)
    assert np.abs(moved).max() > 0.01
