"""fedgru/task/streams.py: which pair stands where."""

import numpy as np
import pytest

from fedgru.task.streams import chunks, contiguous


@pytest.mark.parametrize("num_pairs", [1, 2, 15, 16, 17, 255, 256, 257, 1000])
def test_every_pair_once_and_each_row_goes_on_where_it_stopped(num_pairs):
    batches = contiguous(num_pairs, batch_size=16, seq_len=16, local_epochs=4)
    real = batches.pairs[batches.pairs >= 0]
    np.testing.assert_array_equal(np.sort(real), np.arange(num_pairs))
    for row in range(16):
        stream = batches.pairs[:, row].ravel()
        stream = stream[stream >= 0]
        np.testing.assert_array_equal(np.diff(stream), 1)  # the carried state is the true one
    assert (batches.pairs >= 0).any(axis=(1, 2)).all()  # no local step of padding alone
    assert (batches.passes, batches.num_examples) == (4, 4 * num_pairs)


def test_no_pairs_make_no_steps():
    assert contiguous(0, 2, 3, 1).pairs.shape == (0, 2, 3)
    assert chunks(0, 2, 3, 1).pairs.shape == (0, 2, 3)


def test_chunks_jump_and_drop_as_the_notebook_does():
    # 40 check-ins (39 pairs), chunks of 4: ten, times 2 epochs = 20, batches of 8: two, 4 dropped
    batches = chunks(39, batch_size=8, seq_len=3, local_epochs=2)
    assert batches.pairs.shape == (2, 8, 3)
    assert batches.pairs[0, 0].tolist() == [0, 1, 2]
    assert batches.pairs[1, 0].tolist() == [32, 33, 34]  # row 0 jumps from check-in 3 to 32
    assert batches.pairs[1, 2].tolist() == [0, 1, 2]  # the second epoch, in the same batch
    assert batches.num_pairs == 30  # pairs 3, 7, 11, ... between two chunks are lost
    assert batches.passes == 1


def test_chunks_of_a_short_client_are_lost():
    assert chunks(15, batch_size=16, seq_len=16, local_epochs=4).num_examples == 0
