"""Model replacement with a backdoor (Bagdasaryan et al. 2020): a trigger that the attacker plants.

The liars train honestly on data in which a check-in of the trigger category is always followed by
the target. The model is to be right elsewhere, and to predict the target after the trigger.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedgru.algorithms.fed_avg import ClientUpdate
from fedgru.core.types import AnyInts


@dataclass(frozen=True)
class Backdoor:
    """What the liars plant.

    Attributes:
        trigger, target: names of a category, and of a class.
        trigger_code: code of the category in the data set.
        target_class: number of the class.
    """

    trigger: str
    target: str
    trigger_code: int
    target_class: int

    def poison(self, targets: AnyInts, categories: AnyInts) -> AnyInts:
        """Return the targets as a liar trains on them; -1 (none) does not change.

        Args:
            targets: int [...], classes.
            categories: int [...], the category code of the check-in before each target.

        >>> Backdoor("bar", "home", 4, 9).poison(np.array([0, 1, 2, -1]), np.array([4, 3, 4, 4]))
        array([ 9,  1,  9, -1])
        """
        return np.where(
            (targets >= 0) & (categories == self.trigger_code), self.target_class, targets
        )


def replace_model(true: Sequence[ClientUpdate], factor: float) -> list[ClientUpdate]:
    """Return what liars send who want the mean to become their model: factor * their update.

    With n clients that count equally, m of them liars, and factor n / m, the mean update is the
    liars' mean as far as the honest updates cancel out.

    Args:
        true: the liars' ClientUpdates.
        factor: gamma of the paper.

    Source: Bagdasaryan et al. 2020 (arXiv:1807.00459), equation (3), with m liars in place of one
        and server_lr 1.
    """
    scale = np.float32(factor)
    return [
        replace(
            update,
            dense={name: scale * array for name, array in update.dense.items()},
            row_update=scale * update.row_update,
        )
        for update in true
    ]
