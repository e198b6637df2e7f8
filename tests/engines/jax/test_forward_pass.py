"""fedgru/engines/jax/forward_pass.py: how check-ins lie in the rows of a forward pass."""

from types import SimpleNamespace

import numpy as np
import pytest

from fedgru.engines.jax import forward_pass


@pytest.fixture
def task():
    """Inputs that tell their position: row 10 * p, number p / 10."""
    reads = []

    def read(names, positions):
        assert names == ["inputs.rows", "inputs.numbers"]
        reads.append(positions.size)
        return positions[..., None] * 10, positions[..., None] / 10

    return SimpleNamespace(read=read, reads=reads)


def lay_out(task, form, threads, first, end):
    return [
        list(p)
        for p in forward_pass.ForwardPasses(task, threads, form).lay_out(
            np.array(first), np.array(end)
        )
    ]


def test_even_clients_share_rows(task):
    form = forward_pass.Form(num_rows=2, fewest_rows=1, seq_len=3, whole=False)
    ((one, two),) = lay_out(task, form, 1, [0, 10, 20, 30], [2, 12, 22, 32])
    # two clients of 2 in each of two rows, in parts of 3 and 1
    assert one.positions.T.tolist() == [[10, 11, 30], [0, 1, 20]]
    assert one.starts.T.tolist() == [[True, False, True]] * 2
    assert two.positions.T.tolist() == [[31], [21]]
    assert not two.starts.any()
    assert one.rows[..., 0].T.tolist() == [[100, 110, 300], [0, 10, 200]]
    assert two.numbers[..., 0].T.tolist() == [[3.1], [2.1]]


@pytest.mark.parametrize(("longest", "num_rows"), [(4, 2), (5, 1)])
def test_a_client_longer_than_its_share_makes_rows_fewer(task, longest, num_rows):
    # 2 rows and 8 check-ins in all: 4 are a fair share, with 5 a second row would end in padding
    form = forward_pass.Form(num_rows=2, fewest_rows=1, seq_len=100, whole=False)
    first = [0] + [10 * n for n in range(1, 9 - longest)]
    end = [longest] + [10 * n + 1 for n in range(1, 9 - longest)]
    ((part,),) = lay_out(task, form, 1, first, end)
    assert part.positions.shape == (8 // num_rows, num_rows)
    assert (part.positions >= 0).all()


def test_whole_parts_and_padding(task):
    form = forward_pass.Form(num_rows=1, fewest_rows=1, seq_len=3, whole=True)
    (first, second), (third,) = lay_out(task, form, 2, [0, 5], [4, 7])
    assert first.positions.ravel().tolist() == [0, 1, 2]
    assert second.positions.ravel().tolist() == [3, -1, -1]
    assert second.rows.ravel().tolist() == [30, 0, 0]  # of position 0; nobody asks for its state
    assert third.positions.ravel().tolist() == [5, 6, -1]


def test_nothing_to_walk_through(task):
    form = forward_pass.Form(num_rows=2, fewest_rows=1, seq_len=3, whole=False)
    assert lay_out(task, form, 2, [], []) == [[], []]
    assert lay_out(task, form, 1, [3], [3]) == [[]]


@pytest.mark.parametrize("most", [4, 3])
def test_the_last_walk_is_kept_unless_it_is_large(task, monkeypatch, most):
    monkeypatch.setattr(forward_pass, "KEPT_PLACES", most)
    both = forward_pass.ForwardPasses(task, 1, forward_pass.Form(2, 1, 3, False))
    for first, end in [([0, 8], [2, 10])] * 2 + [([0, 8], [1, 10])] + [([0, 8], [2, 10])]:
        (parts,) = both.lay_out(np.array(first), np.array(end))
        assert sum((part.positions >= 0).sum() for part in parts) == np.subtract(end, first).sum()
    # forward passes of 4, 4, 3 and 4 check-ins, of which the second is that before
    assert len(task.reads) == {4: 3, 3: 4}[most]
