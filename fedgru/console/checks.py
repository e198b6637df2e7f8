"""Text about a run's checks."""

from collections.abc import Mapping
from typing import Any

from fedgru.console.tables import align


def describe_checks(found: Mapping[str, Any]) -> str:
    """Return the result of `fedgru.checks.checks.to_dict` as a table, and a line of counts."""
    checks = found["checks"]
    lines = align([(check["status"], check["name"], check["why"]) for check in checks])
    summed = ", ".join(f"{n} {status}" for status, n in found["counts"].items() if n)
    return f"{lines}\n{len(checks)} checks: {summed}."
