"""fedgru/models/candidate_head.py: rows without padding, by hand."""

import numpy as np

from fedgru.models.candidate_head import NO_CANDIDATE, Candidates, Trained, as_rows


def test_rows_are_the_candidates_that_exist():
    no = NO_CANDIDATE
    # three targets: of two candidates and somewhere new, of one where nowhere is new, and none
    log_prior = np.array(
        [[-1.0, -2.0, no, -3.0], [no, no, -0.5, no], [-1.0, -1.0, -1.0, -1.0]], "f"
    )
    features = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    zeros = np.zeros(3, np.float32)
    candidates = Candidates(features, zeros[:, None], log_prior, np.arange(12).reshape(3, 4))
    trained = Trained(candidates, zeros, zeros, zeros)
    rows, places = as_rows(trained, np.array([3, 2, 0], np.int32), np.array([1, 1, 0], np.float32))
    assert rows.first_row.tolist() == [0, 3, 5, 5]
    assert rows.features[:, 0].tolist() == [0, 1, 3, 4, 6]
    assert rows.kinds.tolist() == [0, 1, 3, 4, 6]
    assert rows.log_prior.tolist() == [-1, -2, -3, np.float32(no), -0.5]
    assert places.tolist() == [2, 1, 0]
    assert rows.most_candidates == 3
