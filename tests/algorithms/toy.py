"""A federation that can be worked out by hand: clients with one weight and one row each.

Client k minimises a_k / 2 * w^2 + b_k * w in each of two weights: the shared `w`, and the table row
with its number (client 0 owns rows 0 and 2, client 1 rows 1 and 2). A local step is plain gradient
descent.
"""

from types import SimpleNamespace

import numpy as np

from fedgru import config
from fedgru.algorithms.client_start import ClientStart, own_weights
from fedgru.algorithms.fed_avg import ClientUpdate
from fedgru.engines.base import Engine
from fedgru.training.rounds import FederatedTraining

OWNED = ([0, 2], [1, 2])
START = {"rows": np.ones((3, 1), np.float32), "w": np.ones(1, np.float32)}


class Toy(Engine):
    """Clients of (a, b, steps, examples)."""

    name = "toy"

    def __init__(self, clients, client_rule, evaluations=None):
        settings = config.load({"head": "dense", "client_optimizer": "sgd"})
        ids = tuple(map(str, range(len(clients))))
        self.task = SimpleNamespace(
            settings=settings,
            protection=None,
            attackers=frozenset(),
            training_clients=np.arange(len(clients)),
            clients=SimpleNamespace(client_ids=ids),
        )
        self.client_rule, self._clients = client_rule, clients

    def local_updates(self, weights, cohort, round_num, constants=None, starts=None):
        for client in map(int, cohort):
            a, b, steps, examples = self._clients[client]
            ids = np.array(OWNED[client], np.int32)
            own = own_weights(weights, ids)
            start = ClientStart(own) if starts is None else starts(client, ids)
            anchor = start.weights if start.anchor is None else start.anchor
            now = dict(start.weights)
            moved = {n: np.zeros_like(w) for n, w in now.items()}
            for _ in range(steps):
                for name, w in now.items():
                    at = start.weights[name] if self.client_rule.at_received else w
                    gradient = a * at + b
                    if self.client_rule.adds_to_gradient:
                        gradient = gradient + self.client_rule.added(w, anchor[name])
                    if start.offset is not None:
                        gradient = gradient + start.offset[name]
                    moved[name] = moved[name] - np.float32(self.client_rule.client_lr) * gradient
                now = {n: start.weights[n] + m for n, m in moved.items()}
            yield ClientUpdate(
                client, examples, {"w": moved["w"]}, ids, moved["rows"], 1.0, 1.0, num_steps=steps
            )


def rounds_of(algorithm, clients, num, cohorts=None):
    """Return the ServerState after some rounds, and the FederatedTraining."""
    training = FederatedTraining(Toy(clients, algorithm.client_rule), algorithm)
    state = algorithm.init(START)
    for n in range(num):
        cohort = np.arange(len(clients)) if cohorts is None else np.array(cohorts[n])
        state = training.run_round(state, cohort).state
    return state, training
