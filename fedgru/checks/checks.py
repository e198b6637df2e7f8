"""Is a run an honest experiment? Checks of its files and results, without trust in the code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgru.checks import leaks, records
from fedgru.checks.checked_run import CheckedRun, NotApplicable, Problem
from fedgru.core.errors import FedgruError

if TYPE_CHECKING:
    from fedgru.runs.folder import RunFolder

OK, PROBLEM, NOT_APPLICABLE = STATUSES = ("ok", "problem", "not applicable")

CHECKS = {
    "data": records.check_data,
    "splits": leaks.check_splits,
    "time order": leaks.check_time_order,
    "vocabulary": leaks.check_vocabulary,
    "scaling": leaks.check_scaling,
    "training targets": leaks.check_training_targets,
    "scored targets": leaks.check_scored_targets,
    "stop metric": records.check_stop_metric,
    "best round": records.check_best_round,
    "scored once": records.check_scored_once,
    "test result": records.check_test_result,
    "reproduced": records.check_reproduced,
}


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: of the check, a key of CHECKS.
        status: one of STATUSES.
        why: one line.
    """

    name: str
    status: str
    why: str


def check_run(
    run: RunFolder, data_dir: str | Path, on_check: Callable[[str], None] | None = None
) -> list[Finding]:
    """Check a run, whatever its kind; nothing is written.

    Args:
        run: RunFolder.
        data_dir: folder of data sets.
        on_check: called with the name of each check before it begins, or None.

    Returns:
        list of Finding, one per entry of CHECKS.

    Raises:
        ConfigError, RunError: if the run's config.toml or run.json cannot be used: then nothing
            can be checked.
    """
    checked, findings = CheckedRun(run, data_dir), []
    for name, check in CHECKS.items():
        if on_check is not None:
            on_check(name)
        try:
            status, why = OK, check(checked)
        except NotApplicable as reason:
            status, why = NOT_APPLICABLE, str(reason)
        except (Problem, FedgruError) as reason:
            status, why = PROBLEM, " ".join(str(reason).split())
        findings.append(Finding(name, status, why))
    return findings


def to_dict(run: RunFolder, findings: list[Finding]) -> dict[str, Any]:
    """Return the findings of a run as a dict that JSON can hold."""
    counts = {status: sum(f.status == status for f in findings) for status in STATUSES}
    return {"run": str(run.path), "counts": counts, "checks": [asdict(f) for f in findings]}
