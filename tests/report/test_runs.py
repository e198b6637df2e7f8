"""fedgru/report/runs.py: the bytes of a report against those that an engine moves."""

import numpy as np
import pytest

from fedgru.engines.jax.engine import JaxEngine
from fedgru.report import numbers
from fedgru.report.runs import own_rows
from tests.conftest import start


@pytest.mark.parametrize("target", ["category", "venue"])
def test_bytes_are_those_of_the_updates(make_task, target):
    task = make_task(target=target, features="user,category,venue,clock")
    _, state = start(task)
    traffic = numbers.count_traffic(state.weights, own_rows(task))
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
