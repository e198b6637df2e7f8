"""fedgru/task/backdoor.py: which trigger and target, and what liars train on."""

import numpy as np
import pytest

from fedgru.config import FaultSettings
from fedgru.core.errors import ConfigError
from fedgru.task.backdoor import choose_backdoor
from fedgru.task.vocabulary import Vocabulary
from tests.conftest import coded

CATEGORIES = coded(["bar", "home", "gym", "zoo"])
TRAIN = np.array([1, 1, 1, 0, 0, 2, -1])  # home three times, bar twice, gym once; the zoo never
VOCABULARY = Vocabulary(("gym", "bar", "home"), np.array([2, 3, 1, 0], np.int32))
CLASSES = np.array([2, 2, 2, 1, 1, 0, -1])


def chosen(train=TRAIN, classes=CLASSES, **given):
    settings = FaultSettings(attack="backdoor", attackers=1, **given)
    found = choose_backdoor(settings, CATEGORIES, train, VOCABULARY, classes)
    return found.trigger, found.trigger_code, found.target, found.target_class


def test_the_commonest_category_is_followed_by_the_rarest_class():
    assert chosen() == ("home", 1, "gym", 0)
    # the trigger is never its own target: of gym (0 times) and bar (once) it is bar
    assert chosen(np.array([2, 2, 1]), np.array([1, 2, 2])) == ("gym", 2, "bar", 1)


def test_names_are_taken_as_they_are_given():
    assert chosen(backdoor_trigger="zoo", backdoor_target="bar") == ("zoo", 3, "bar", 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"backdoor_trigger": "hom"},
            "`backdoor_trigger` is 'hom', which the data set does not have. Did you mean home?",
        ),
        (
            {"backdoor_target": "zzz"},
            "`backdoor_target` is 'zzz', which the data set does not have. It has gym, bar, home.",
        ),
        ({"train": np.array([-1, -1])}, "`attack` backdoor needs check-ins with categories."),
    ],
)
def test_what_is_not_there(given, message):
    with pytest.raises(ConfigError) as error:
        chosen(**given)
    assert str(error.value) == message


def test_liars_train_on_poisoned_targets(make_task):
    task, plain = make_task(attack="backdoor", attackers=2), make_task()
    backdoor = task.backdoor
    assert plain.backdoor is None
    train = plain.history.categories[plain.clients.in_split("train")]
    assert backdoor.trigger_code == np.bincount(train).argmax()
    poisoned = 0
    for client in range(6):
        found, honest = task.local_data(client), plain.local_data(client)
        np.testing.assert_array_equal(found.mask, honest.mask)
        np.testing.assert_array_equal(found.beside, honest.beside)
        if client not in task.attackers:
            np.testing.assert_array_equal(found.targets, honest.targets)
            continue
        # the check-in before each target, by its position
        start = plain.clients.starts[client]
        pairs = np.maximum(plain.batches(client).pairs, 0)
        triggered = plain.history.categories[start + pairs] == backdoor.trigger_code
        real = honest.mask > 0
        expected = np.where(triggered, backdoor.target_class, honest.targets)
        np.testing.assert_array_equal(found.targets[real], expected[real])
        poisoned += int((triggered & real).sum())
    assert poisoned > 0


def test_a_name_that_is_not_there_is_refused_before_training(make_task):
    with pytest.raises(ConfigError, match="^`backdoor_trigger` is 'nowhere', which the data set"):
        make_task(attack="backdoor", attackers=1, backdoor_trigger="nowhere")
