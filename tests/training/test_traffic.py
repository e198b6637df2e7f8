"""fedgru/training/traffic.py: bytes by hand, and against those that an engine moves."""

import numpy as np
import pytest

from fedgru import algorithms, config
from fedgru.algorithms.sent import sent_by
from fedgru.engines.jax.engine import JaxEngine
from fedgru.task.kernel_prior import Kernel
from fedgru.training.loop import draw_cohort
from fedgru.training.traffic import (
    count_traffic,
    ledger,
    own_rows,
    sum_of_rounds,
    traffic_of,
)
from tests.conftest import start


@pytest.mark.parametrize("target", ["category", "venue"])
def test_bytes_are_those_of_the_updates(make_task, target):
    task = make_task(target=target, features="user,category,venue,clock")
    _, state = start(task)
    traffic = count_traffic(state.weights, own_rows(task))
    cohort = task.training_clients
    for update in JaxEngine(task).local_updates(state.weights, cohort, 1):
        assert len(np.unique(update.row_ids)) == own_rows(task)[update.client] > 0
        arrays = [*update.dense.values(), update.row_update, update.row_ids]
        assert {array.dtype.itemsize for array in arrays} == {4}
        sent = sum(array.nbytes for array in arrays) + 3 * 8
        assert traffic.up_bytes[update.client] == sent
        received = sum(w.nbytes for name, w in state.weights.items() if name != "rows")
        received += state.weights["rows"][update.row_ids].nbytes
        assert traffic.down_bytes[update.client] == received
    assert traffic.model_bytes == sum(w.nbytes for w in state.weights.values())


def weights():
    return {
        "rows": np.zeros((10, 6), np.float32),
        "bias": np.zeros((2, 6), np.float32),
        "head_kernel": np.zeros((2, 3), np.float32),
        "prior_scale": np.float32(1),
    }


def test_bytes_of_each_client():
    # dense: 12 + 6 + 1 = 19 numbers; a row has 6. Clients of 3 rows and of none:
    # down 4 * (19 + 18) = 148 and 76; up also the ids, 4 * 3, and three sums of 8 bytes
    found = count_traffic(weights(), [3, 0])
    assert found.down_bytes.tolist() == [148, 76]
    assert found.up_bytes.tolist() == [148 + 12 + 24, 76 + 24]
    assert found.model_bytes == 4 * (19 + 60)
    assert found.prior_bytes == 0


def test_bytes_with_a_protected_concept_and_the_kernel_prior():
    found = count_traffic(weights(), [3], has_head=True, kernel=Kernel())
    assert found.up_bytes.tolist() == [148 + 12 + 48]
    assert found.prior_bytes == 80 * 4 * (11 + 11 + 1)


def test_bytes_where_the_whole_table_moves():
    found = count_traffic(weights(), [3, 0], whole_table=True)
    assert found.down_bytes.tolist() == [316, 316]
    assert found.up_bytes.tolist() == [340, 340]


@pytest.mark.parametrize(
    ("given", "down", "up"),
    [
        # the model of a client of 3 rows has 148 bytes; the ids 12, three sums 24
        ({"algorithm": "scaffold", "client_optimizer": "sgd"}, 296, 296 + 36),
        ({"algorithm": "mime-lite", "client_optimizer": "sgd"}, 296, 296 + 36),
        ({"algorithm": "fed-nova"}, 148, 148 + 36 + 8),
        ({"algorithm": "q-fed-avg"}, 148, 148 + 36 + 8),
        ({"algorithm": "agnostic-fl"}, 148, 148 + 36 + 8),
        ({"algorithm": "ditto"}, 148, 148 + 36),
        ({"algorithm": "ifca", "num_clusters": 3}, 444, 148 + 36 + 8),
        # without head_kernel, 6 numbers; without the table too
        ({"algorithm": "fed-per", "personal_weights": "head_kernel"}, 124, 124 + 36),
        ({"algorithm": "fed-per", "personal_weights": "head_kernel,rows"}, 52, 52 + 24),
        ({"prox_mu": 0.1}, 148, 148 + 36),
        # 37 numbers of 8, 4 and 2 bits, with one scale; 4 of them with 4 indices
        ({"compress": "8-bit"}, 148, 37 + 4 + 36),
        ({"compress": "4-bit"}, 148, 19 + 4 + 36),
        ({"compress": "2-bit"}, 148, 10 + 4 + 36),
        ({"compress": "top-10%"}, 148, 4 * 8 + 36),
    ],
)
def test_bytes_of_each_algorithm(given, down, up):
    sent = sent_by(algorithms.from_settings(config.load(given)))
    found = count_traffic(weights(), [3], sent=sent)
    assert (found.down_bytes.tolist(), found.up_bytes.tolist()) == ([down], [up])
    assert found.model_bytes == 4 * (19 + 60)


def test_the_ledger_has_a_line_for_each_client_and_round(make_task):
    task = make_task(clients_per_round=2, compress="4-bit")
    traffic = traffic_of(task)
    lines = list(ledger(task, traffic, 3))
    drawn = [draw_cohort(task, number).tolist() for number in (1, 2, 3)]
    ids = task.clients.client_ids
    expected = [(n, ids[c]) for n, cohort in enumerate(drawn, 1) for c in cohort]
    assert [line[:2] for line in lines] == expected
    names = list(traffic.parts)
    down = sum(v for *_, parts in lines for n, v in zip(names, parts, strict=True) if n[0] == "d")
    up = sum(v for *_, parts in lines for n, v in zip(names, parts, strict=True) if n[0] == "u")
    assert (down, up) == sum_of_rounds(task, traffic, 3)
    # an update of 4 bits is an eighth of what was received, and a scale per 1,024 numbers
    one = dict(zip(names, lines[0][2], strict=True))
    assert one["up_update"] == pytest.approx((one["down_dense"] + one["down_rows"]) / 8, rel=0.02)
