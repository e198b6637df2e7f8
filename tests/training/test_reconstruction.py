"""The reconstruction attack: what is certain to be found, and what noise and sums hide."""

import numpy as np
import pytest

from fedgru.agnostic import protection
from fedgru.core.errors import ConfigError
from fedgru.engines.jax.engine import JaxEngine
from fedgru.training.reconstruction import VIEWS, Seen, attack_updates


def test_the_attacker_by_hand():
    plain = Seen(np.array([0.0, 2.0, 0.0, 1.0]), np.array([-1, 3, 0.5], np.float32), False)
    assert plain.rows(1).tolist() == [False, True, False, True]
    assert plain.classes(2).tolist() == [False, True, True]
    noised = Seen(np.array([0.1, 2.0, 0.2, 1.0]), None, True)
    assert noised.rows(1).tolist() == [False, True, False, False]


def test_an_update_reveals_every_venue_and_noise_hides_them(make_task):
    task = make_task(features="category,venue,clock", prior="none", threads=1)
    engine, weights = JaxEngine(task), protection.init_weights(task)
    found = attack_updates(engine, weights, noise=5.0)
    assert list(found["views"]) == list(VIEWS)
    assert found["clients"] == 6
    for view in ("as sent", "clipped"):  # a norm hides nothing
        for name in ("category", "venue"):
            assert found["views"][view][name] == {"precision": 1.0, "recall": 1.0}
    # in a sum all of it is still there, among what others have
    summed = found["views"]["sum of 10"]["venue"]
    assert summed["recall"] == 1.0 and summed["precision"] < 0.9
    # under noise the attacker does about as well as by chance
    by_chance, noised = found["chance"]["venue"], found["views"]["clipped, noised"]["venue"]
    assert noised["recall"] < by_chance + 0.25
    # what is trained on shows in the head's bias
    classes = found["views"]["as sent"]["trained classes"]
    assert classes["recall"] > found["chance"]["trained classes"] + 0.2


def test_nothing_to_read(make_task):
    task = make_task(features="clock", head="candidates", prior="backoff", dropout=0.0)
    weights = protection.init_weights(task)
    with pytest.raises(ConfigError, match="no rows and no bias"):
        attack_updates(JaxEngine(task), weights)
