"""fedgru/storage/client_store.py: what clients keep from round to round."""

import resource

import numpy as np
import pytest

from fedgru.core.errors import RunError
from fedgru.storage.client_store import ClientStore, dump


def arrays(value):
    return {"bias": np.full(3, value, np.float32), "scale": np.array(value, np.float64)}


def first(kept):
    return None if kept is None else float(kept["scale"])


def rows_of(store):
    return store._file.execute("SELECT client, round_num FROM kept ORDER BY 1, 2").fetchall()


def test_what_is_kept_comes_back(tmp_path):
    store = ClientStore(tmp_path / "clients.sqlite")
    sent = {
        "rows": np.arange(6, dtype=np.float32).reshape(2, 3),
        "none": np.zeros((0, 4), np.float32),
        "cluster": np.array(2),
    }
    store.put(7, sent, 1)
    store.commit()
    store.close()
    found = ClientStore(tmp_path / "clients.sqlite").get(7)
    for name, array in sent.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert list(found) == list(sent)


def test_the_state_after_any_round():
    store = ClientStore()
    for client, round_num in ((0, 1), (1, 2), (0, 4)):
        store.put(client, arrays(10 * client + round_num), round_num)
    assert [first(store.get(0, r)) for r in (0, 1, 3, 4, 9)] == [None, 1, 1, 4, 4]
    assert [first(store.get(1, r)) for r in (1, 2, 9)] == [None, 12, 12]
    assert first(store.get(0)) == 4 and store.get(5) is None
    assert store.clients() == [0, 1]
    store.put(0, arrays(40), 4)
    assert first(store.get(0)) == 40


def test_rows_that_no_round_needs_are_removed():
    store = ClientStore()
    for round_num in range(1, 8):
        store.put(0, arrays(round_num), round_num)
        if round_num % 3 == 0:
            store.put(1, arrays(10 + round_num), round_num)
    store.commit([2, 6, 7])
    # client 0 at round 2, 6, 7; client 1 had nothing at round 2, and its row 6 at rounds 6 and 7
    assert rows_of(store) == [(0, 2), (0, 6), (0, 7), (1, 6)]
    store.put(1, arrays(18), 8)
    store.commit([7, 8])  # client 0 kept nothing new: it is not looked at
    assert rows_of(store) == [(0, 2), (0, 6), (0, 7), (1, 6), (1, 8)]
    store.commit([8], everywhere=True)
    assert rows_of(store) == [(0, 7), (1, 8)]
    store.commit(None)
    assert rows_of(store) == [(0, 7), (1, 8)]


def test_a_killed_run_goes_back_to_its_checkpoint(tmp_path):
    store = ClientStore(tmp_path / "kept")
    store.put(0, arrays(1), 1)
    store.commit([0, 1])
    store.put(0, arrays(2), 2)
    store.commit([1, 2])
    store.put(0, arrays(3), 3)
    store.close()  # not committed, as in a killed process
    again = ClientStore(tmp_path / "kept")
    assert first(again.get(0)) == 2
    again.go_back_to(1)
    assert [(client, first(kept)) for client, kept in dump(again)] == [(0, 1)]


def test_memory_does_not_grow_with_the_clients(tmp_path):
    store = ClientStore(tmp_path / "kept")
    one = {"bias": np.zeros(25_000, np.float32)}  # 100 kB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for client in range(1000):
        store.put(client, one, 1)
    store.commit([1])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB, of 100 MB


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "clients.sqlite"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(RunError, match=r"cannot use .*clients.sqlite: file is not a database"):
        ClientStore(path)
