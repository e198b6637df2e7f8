"""A training whose validation follows a script: for tests of what is built around it."""

from types import SimpleNamespace

import numpy as np

from fedgru.data import datasets
from fedgru.engines.base import Engine, RoundResult
from fedgru.training import rounds
from fedgru.workflows import train as train_workflow


class CountingEngine(Engine):
    """Learns nothing: the bias counts the rounds, so that a script can say what they reach."""

    name = "counting"
    runs_whole_rounds = True

    def run_round(self, algorithm, state, cohort):
        weights = state.weights | {"bias": state.weights["bias"] + 1}
        new = type(state)(weights, state.optimizer, state.round_num + 1)
        return RoundResult(new, {"loss": 2.0, "acc@1": 0.5}, len(cohort), 10)

    def hidden_states(self, weights, first_positions, end_positions, wanted):
        return np.zeros((len(wanted), self.task.spec.hidden_dim), np.float32)


def follow(monkeypatch, data_set, loss):
    """Let validation give loss(settings, round_num), on any data set's name.

    Returns:
        list, to which (settings.client.client_lr, settings.loop) of each training is added.
    """
    trained = []

    def evaluate(engine, weights, split, clients=None):
        round_num = int(weights["bias"].max())
        if round_num == 0:
            trained.append((engine.task.settings.client.client_lr, engine.task.settings.loop))
        value = loss(engine.task.settings, round_num)
        summary = {"val/loss/micro": value, "val/acc@1/micro": 1 / value}
        return SimpleNamespace(summary=lambda: summary)

    monkeypatch.setattr(datasets, "open_data_set", lambda *_: data_set)
    monkeypatch.setattr(train_workflow, "make_engine", lambda task, *_, **__: CountingEngine(task))
    monkeypatch.setattr(rounds, "evaluate", evaluate)
    return trained
