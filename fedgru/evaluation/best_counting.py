"""The best counting baseline of some runs on the same targets, chosen on validation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

METRIC = "val/acc@1/micro"
COLUMN = "counting_"  # before a metric, in clients.csv: of the run's own best


def choose(tests: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the name of the baseline with the highest acc@1 on validation.

    The running kernel differs from run to run, and not every run has one: a baseline's acc@1 is the
    mean over the runs that have it. Among equals the first one in the runs' reports is taken.

    Args:
        tests: test.json of runs on the same targets.

    Returns:
        A key of their `baselines`; None if none of them holds results on validation.
    """
    found: dict[str, list[float]] = {}
    for test in tests:
        for name, row in test.get("baselines", {}).items():
            if METRIC in row:
                found.setdefault(name, []).append(row[METRIC])
    if not found:
        return None
    return max(found, key=lambda name: float(np.mean(found[name])))


def test_accuracy(tests: Sequence[Mapping[str, Any]], name: str) -> float:
    """Return a baseline's acc@1 on test, the mean over those of the runs that have it."""
    rows = [test["baselines"][name] for test in tests if name in test.get("baselines", {})]
    return float(np.mean([row["test/acc@1/micro"] for row in rows]))
