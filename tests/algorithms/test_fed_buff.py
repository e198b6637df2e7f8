"""fedgru/algorithms/fed_buff.py: the mean of a buffer, by hand."""

import numpy as np
import pytest

from fedgru.algorithms.fed_avg import ClientUpdate, FedAvg, ServerState
from fedgru.algorithms.fed_buff import FedBuff
from fedgru.algorithms.fed_prox import FedProx
from fedgru.algorithms.fed_sub_avg import FedSubAvg
from fedgru.algorithms.robust import Median
from fedgru.algorithms.server_optimizers import SGD


def weights():
    return {"rows": np.zeros((3, 2), np.float32), "bias": np.full(2, 10.0, np.float32)}


def update(client, examples, bias, row_id, row):
    return ClientUpdate(
        client=client,
        num_examples=examples,
        dense={"bias": np.full(2, bias, np.float32)},
        row_ids=np.array([row_id], np.int32),
        row_update=np.full((1, 2), row, np.float32),
        loss_sum=1.0,
        num_correct=0.0,
    )


def apply(half):
    """Apply a new update of 1 example and one of 3 examples that is 3 versions old."""
    algorithm = FedBuff(half)
    buffer = algorithm.start(weights())
    buffer.add(update(0, 1, 4.0, 0, 1.0))
    buffer.staleness = 3
    buffer.add(update(1, 3, 8.0, 2, 2.0))
    assert len(buffer) == 2
    return algorithm.apply(algorithm.init(weights()), buffer)


def test_an_old_update_counts_less():
    # 1 / sqrt(1 + 3) is a half: (1 * 4 + 3 * 8 / 2) / (1 + 3) = 4; dividing by the weights that
    # are left, 1 + 3 / 2, would give 6.4
    after = apply(FedAvg(SGD(0.5)))
    assert isinstance(after, ServerState) and after.round_num == 1
    assert after.weights["bias"].tolist() == [12.0, 12.0]  # 10 + 0.5 * 4
    # a row is averaged over all: 1 * 1 / 4 and 3 * 2 / 2 / 4
    assert after.weights["rows"][:, 0].tolist() == [0.125, 0.0, 0.375]


def test_rows_over_their_owners():
    rows = apply(FedSubAvg(SGD(1.0))).weights["rows"]
    assert rows[:, 0].tolist() == [1.0, 0.0, 1.0]  # 2 / 2: the one owner's update is old


def test_a_robust_mean_of_the_weighted_updates():
    # the median nearest to zero of 4 and of 8 / 2
    assert apply(Median(SGD(1.0))).weights["bias"].tolist() == [14.0, 14.0]


@pytest.mark.parametrize("first", [0, 1])
def test_parts_are_merged(first):
    algorithm = FedBuff(FedAvg(SGD(1.0)))
    whole = algorithm.start(weights())
    for place in (first, 1 - first):
        part = algorithm.start(weights(), np.arange(3))
        part.staleness = 3 * place
        part.add([update(0, 1, 4.0, 0, 1.0), update(1, 3, 8.0, 2, 2.0)][place])
        whole.merge(part)
    after = algorithm.apply(algorithm.init(weights()), whole)
    assert after.weights["bias"].tolist() == [14.0, 14.0]


def test_clients_follow_the_rule_of_the_half():
    assert FedBuff(FedProx(FedAvg(SGD(1.0)), 0.5)).client_rule.prox_mu == 0.5
