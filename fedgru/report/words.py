"""Small texts of a report."""

from fedgru.report.page import paragraph


def count(number, noun):
    """Return a number with its noun.

    >>> count(1, "client"), count(1200, "client")
    ('1 client', '1,200 clients')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def in_bytes(number):
    """Return a number of bytes in the unit that suits it, decimal.

    >>> in_bytes(999), in_bytes(218_992), in_bytes(64_885_504)
    ('999 B', '219.0 kB', '64.9 MB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f} B"


def verdict(low, high):
    """Return whether an interval of a difference leaves out zero, in words."""
    return "not significant" if low <= 0 <= high else "significant"


def four(value):
    """Return a metric with four decimals; None and NaN, which cannot be told, are None."""
    return None if value is None or value != value else f"{value:.4f}"


def who(runs, run):
    """Return what a caption puts before a run's number: its label, if there are several."""
    return f"{run.label}: " if len(runs) > 1 else ""


def of_run(runs, run):
    """Return what a caption puts after what is said of one of several runs."""
    return f" ({run.label})" if len(runs) > 1 else ""


def each_label(runs, alone):
    """Return the heads of the runs' columns; one run has no name to tell."""
    return [run.label for run in runs] if len(runs) > 1 else [alone]


def sentence(runs, told):
    """Return one sentence of what is told of each run; where it starts with a name, that stays."""
    text = "; ".join(told)
    return f"{text[:1].upper()}{text[1:]}." if len(runs) == 1 else f"{text}."


def started(run):
    """Return when a run was started, to the minute."""
    return f"{run.facts['started'][:16].replace('T', ' ')} UTC"


def without(runs, those_with, lack):
    """Return a paragraph for each run that lacks what a section is about."""
    kept = [run.number for run in those_with]
    return [paragraph(f"{run.label} {lack}.") for run in runs if run.number not in kept]
