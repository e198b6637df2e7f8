"""The probe audit, on data whose right answers are known."""

import numpy as np
import pytest

from fedgru.agnostic import probes
from fedgru.core.errors import DataError


def _examples(labels, views, groups=None):
    groups = np.arange(len(labels)) if groups is None else groups
    return probes.Examples(views, np.asarray(labels), groups)


def _xor(n, seed):
    """Two signs whose product is the concept: nothing for a line, all of it for the others."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], (n, 2))
    x = signs + 0.1 * rng.normal(size=(n, 2))
    return (signs[:, 0] * signs[:, 1] > 0).astype(int), x


def test_what_a_line_cannot_read_others_do():
    labels, x = _xor(600, 0)
    labels_test, x_test = _xor(500, 1)
    found = probes.audit(
        "xor", _examples(labels, {"z": x}), _examples(labels_test, {"z": x_test}), seeds=(0, 1)
    )
    accuracy = {r.probe: r.accuracy for r in found.readings}
    assert accuracy["logistic"] < 0.6
    assert accuracy["mlp"] > 0.97 and accuracy["knn"] > 0.97
    assert found.worst("z").accuracy == max(accuracy.values())
    assert found.worst("z").interval[0] > 0.95
    # four clusters, each given one answer by chance
    assert all(0.2 < r.control < 0.8 for r in found.readings)


def test_faint_traces_are_magnified():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    x = np.stack([rng.normal(size=400) * 100, labels * 1e-4], 1)
    found = probes.audit(
        "faint", _examples(labels[:200], {"z": x[:200]}), _examples(labels[200:], {"z": x[200:]})
    )
    assert found.worst("z").accuracy == 1.0


def test_floor_is_the_commonest_of_fit_and_unknown_is_counted():
    rng = np.random.default_rng(1)
    # commonest in fit: 1 (of 4, 5 and 1). Test: two of value 1 among 1, 1, 0, 0, 0; value 7 does
    # not occur in fit, -1 is unknown: both left out and counted, with the one -1 of fit: 3
    fit = [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, -1]
    test = [1, 1, 0, 0, 0, 7, -1]
    found = probes.audit(
        "c",
        _examples(fit, {"z": rng.normal(size=(11, 2))}),
        _examples(test, {"z": rng.normal(size=(7, 2))}),
        probes=("logistic", "knn"),
    )
    assert (found.num_values, found.num_fit, found.num_test, found.num_unknown) == (3, 10, 5, 3)
    assert found.floor == pytest.approx(2 / 5)


def test_erasure_stands_beside_the_view():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 2000)
    x = rng.normal(size=(2000, 4)) + 2 * labels[:, None]
    found = probes.audit(
        "c",
        _examples(labels[:1000], {"z": x[:1000]}),
        _examples(labels[1000:], {"z": x[1000:]}),
        probes=("logistic",),
        erase="z",
    )
    accuracy = {r.view: r.accuracy for r in found.readings}
    assert accuracy["z"] > 0.95
    assert accuracy["z + leace"] < 0.56


def test_interval_draws_groups():
    # 50 examples of one group all right, 50 of another all wrong: the mean of a draw of two
    # groups is 0, 0.5 or 1, so the interval is all of 0 to 1; by examples it would be 0.4 to 0.6
    hits, groups = np.repeat([1.0, 0.0], 50), np.repeat([0, 1], 50)
    assert probes._interval(hits, groups, 0) == (0.0, 1.0)


def test_one_value_is_refused():
    z = {"z": np.zeros((3, 1))}
    with pytest.raises(DataError) as error:
        probes.audit("zone", _examples([0, 1, 1], z), _examples([1, 1, -1], z))
    assert str(error.value) == (
        "no probe can be tested for concept zone: its 2 examples hold 1 of its values, expected at "
        "least 2."
    )
    with pytest.raises(DataError) as error:
        probes.audit("zone", _examples([1, 1, 1], z), _examples([0, 1, 0], z))
    assert str(error.value) == (
        "no probe can be fitted for concept zone: its 3 examples hold 1 of its values, expected at "
        "least 2."
    )
