"""Which backdoor the liars plant in a data set, and how often it works."""

from collections.abc import Iterable
from difflib import get_close_matches

import numpy as np

from fedgru.algorithms.backdoor import Backdoor
from fedgru.config.settings import FaultSettings
from fedgru.core.errors import ConfigError
from fedgru.core.types import AnyInts
from fedgru.data.checkins import Coded
from fedgru.task.vocabulary import Vocabulary


def choose_backdoor(
    faults: FaultSettings,
    categories: Coded,
    train_categories: AnyInts,
    vocabulary: Vocabulary,
    train_classes: AnyInts,
) -> Backdoor:
    """Return the Backdoor that FaultSettings name, or the default one.

    The default trigger is the commonest category of train: liars take few local steps, and hardly
    learn what follows a rare one. The default target is the class that train has least often, and
    is not the trigger: a model without a backdoor hardly ever predicts it. Of equals the first one.

    Args:
        faults: FaultSettings.
        categories: Coded, the data set's column.
        train_categories: int [num_train], codes of all train check-ins; -1 for missing ones.
        vocabulary: Vocabulary of the target.
        train_classes: int [num_train], classes of the same; -1 for unknown ones.

    Raises:
        ConfigError: if there is no such category or class, with a suggestion.
    """
    known = train_categories[train_categories >= 0]
    if not len(known):
        raise ConfigError("`attack` backdoor needs check-ins with categories.")
    if faults.backdoor_trigger is None:
        code = int(np.argmax(np.bincount(known)))
    else:
        code = _find("backdoor_trigger", faults.backdoor_trigger, categories.values)
    trigger = str(categories.values[code])
    if faults.backdoor_target is None:
        counts = np.bincount(train_classes[train_classes >= 0], minlength=len(vocabulary))
        others = [c for c in range(len(vocabulary)) if vocabulary.values[c] != trigger]
        if not others:
            raise ConfigError("`attack` backdoor needs another class than the trigger's.")
        target = min(others, key=lambda c: counts[c])
    else:
        target = _find("backdoor_target", faults.backdoor_target, vocabulary.values)
    return Backdoor(trigger, str(vocabulary.values[target]), code, target)


def _find(setting: str, name: str, values: Iterable[str]) -> int:
    texts = [str(value) for value in values]
    if name in texts:
        return texts.index(name)
    near = get_close_matches(name, texts, 1)
    hint = f"Did you mean {near[0]}?" if near else f"It has {', '.join(texts[:10])}."
    raise ConfigError(f"`{setting}` is {name!r}, which the data set does not have. {hint}")
