"""When to stop: the decision alone."""

import math
from dataclasses import dataclass


@dataclass
class EarlyStopping:
    """Stops after `patience` rounds in a row without improvement.

    Attributes:
        higher_is_better: direction of the metric.
        patience: rounds; 0 never stops.
        min_improvement: a change counts if it is more than this. With 0 any change counts.
        best_value, best_round: of the last round that improved; None and 0 before the first.
        keeps_last: whether each round counts as an improvement, so that validation chooses nothing.
    """

    higher_is_better: bool
    patience: int
    min_improvement: float = 0.0
    best_value: float | None = None
    best_round: int = 0
    rounds_without: int = 0
    keeps_last: bool = False

    def report(self, round_num: int, value: float) -> tuple[bool, bool]:
        """Take one round's value.

        Returns:
            (improved, stop): two bools.

        >>> rule = EarlyStopping(higher_is_better=False, patience=2)
        >>> [rule.report(r, loss) for r, loss in enumerate([3.0, 2.0, 2.0, 2.5], start=1)]
        [(True, False), (True, False), (False, False), (False, True)]
        """
        if self.best_value is None or self.keeps_last:
            improved = not math.isnan(value)
        else:
            gain = value - self.best_value if self.higher_is_better else self.best_value - value
            improved = gain > self.min_improvement
        if improved:
            self.best_value, self.best_round, self.rounds_without = value, round_num, 0
        else:
            self.rounds_without += 1
        return improved, self.is_over

    @property
    def is_over(self) -> bool:
        """Whether the patience is used up."""
        return 0 < self.patience <= self.rounds_without
