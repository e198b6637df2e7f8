"""What is printed of a run's checks."""

from collections.abc import Mapping

from fedgru.console.tables import align


def describe_checks(found: Mapping) -> str:
    """Return what `fedgru.checks.checks.to_dict` gives as a table, and a last line that counts."""
    checks = found["checks"]
    lines = align([(check["status"], check["name"], check["why"]) for check in checks])
    summed = ", ".join(f"{n} {status}" for status, n in found["counts"].items() if n)
    return f"{lines}\n{len(checks)} checks: {summed}."
