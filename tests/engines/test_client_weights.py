"""What a client counts for in a mean: its examples, or as much as any other."""

import numpy as np
import pytest

from fedgru import config
from fedgru.algorithms import faults
from fedgru.algorithms.fed_avg import ClientUpdate, FedAvg
from fedgru.algorithms.server_optimizers import SGD
from fedgru.core.errors import ConfigError
from fedgru.engines import registry
from fedgru.engines.base import Gathered


def update(client, num_examples, bias, loss_sum):
    return ClientUpdate(
        client=client,
        num_examples=num_examples,
        dense={"bias": np.array([bias], np.float32)},
        row_ids=np.array([0], np.int32),
        row_update=np.array([[bias]], np.float32),
        loss_sum=loss_sum,
        num_correct=1.0,
    )


@pytest.mark.parametrize(("client_weights", "mean"), [("examples", 7.0), ("equal", 6.0)])
def test_the_mean_of_two_clients(make_task, client_weights, mean):
    task = make_task(client_weights=client_weights)
    weights = {"rows": np.ones((2, 1), np.float32), "bias": np.ones(1, np.float32)}
    algorithm = FedAvg(SGD(1.0))
    gathered = Gathered(task.settings, algorithm.start(weights))
    for one in (update(0, 1, 4.0, 3.0), update(1, 3, 8.0, 5.0)):
        gathered.add(task, one, weights, 1)
    after = algorithm.apply(algorithm.init(weights), gathered.total).weights
    # (1 * 4 + 3 * 8) / 4, or (4 + 8) / 2
    assert after["bias"].tolist() == [1 + mean]
    assert after["rows"][:, 0].tolist() == [1 + mean, 1.0]
    # the train loss is that of all examples in both
    assert (gathered.num_examples, gathered.loss_sum, gathered.num_correct) == (4, 8.0, 2.0)


def test_a_claim_of_examples_counts_for_nothing(make_task):
    task = make_task(client_weights="equal")
    weights = {"rows": np.ones((2, 1), np.float32), "bias": np.ones(1, np.float32)}
    algorithm = FedAvg(SGD(1.0))
    gathered = Gathered(task.settings, algorithm.start(weights))
    for one in (update(0, 10**9, 4.0, 1.0), update(1, 1, 8.0, 1.0), update(2, 0, 1.0, 1.0)):
        gathered.add(task, one, weights, 1)
    after = algorithm.apply(algorithm.init(weights), gathered.total).weights
    assert after["bias"].tolist() == [7.0]  # 1 + (4 + 8) / 2
    assert gathered.unusable == {2: faults.NO_EXAMPLES}


def test_tff_weighs_by_examples_alone():
    with pytest.raises(ConfigError, match="`client_weights` equal"):
        registry.check(config.load({"engine": "tff", "mean": "clients", "client_weights": "equal"}))
