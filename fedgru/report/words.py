"""Small texts of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from fedgru.report.page import paragraph

if TYPE_CHECKING:
    from fedgru.report.runs import ReportedRun


def count(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> count(1, "client"), count(1200, "client")
    ('1 client', '1,200 clients')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def in_bytes(number: float) -> str:
    """Return a number of bytes in the unit that suits it, decimal.

    >>> in_bytes(999), in_bytes(218_992), in_bytes(64_885_504)
    ('999 B', '219.0 kB', '64.9 MB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f} B"


def four(value: float | None) -> str | None:
    """Return a metric with four decimals; None for None and NaN."""
    return None if value is None or value != value else f"{value:.4f}"


def who(runs: Sequence[ReportedRun], run: ReportedRun) -> str:
    """Return the words before a run's number in a caption: its label, if there are several."""
    return f"{run.label}: " if len(runs) > 1 else ""


def of_run(runs: Sequence[ReportedRun], run: ReportedRun) -> str:
    """Return the words after a sentence about one of several runs: its label in brackets."""
    return f" ({run.label})" if len(runs) > 1 else ""


def each_label(runs: Sequence[ReportedRun], alone: str) -> list[str]:
    """Return the heads of the runs' columns; `alone` if there is only one run."""
    return [run.label for run in runs] if len(runs) > 1 else [alone]


def sentence(runs: Sequence[ReportedRun], said: list[str]) -> str:
    """Return one sentence from a text for each run; a label at its start is not capitalized."""
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}." if len(runs) == 1 else f"{text}."


def started(run: ReportedRun) -> str:
    """Return when a run was started, to the minute."""
    return f"{run.facts['started'][:16].replace('T', ' ')} UTC"


def trained_on(run: ReportedRun) -> str:
    """Return how many users a run was trained and scored on, where the two differ."""
    users = run.facts.get("users")
    if users is None:
        return ""
    return f", trained on {count(users['trained'], 'user')}, scored on {users['scored']:,}"


def without(
    runs: Sequence[ReportedRun], those_with: Sequence[ReportedRun], lack: str
) -> list[Markup]:
    """Return a paragraph for each run to which a section does not apply."""
    kept = [run.number for run in those_with]
    return [paragraph(f"{run.label} {lack}.") for run in runs if run.number not in kept]
