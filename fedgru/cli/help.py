"""Help of commands with many settings: the basic ones by --help, all, in groups, by --help-all."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args

import click

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

ALL = "fedgru.help_all"  # in a context's `meta`
BASIC = frozenset(
    ("data", "users", "features", "target", "asked_at", "algorithm", "hidden_dim", "rounds")
    + ("clients_per_round", "agnostic_to", "seed", "name", "engine", "preset")
)
SECTIONS = {  # sections of the settings -> headings
    "data": "Data",
    "inputs": "Inputs and target",
    "layout": "Streams",
    "model": "Model",
    "client": "Local training",
    "server": "Server",
    "algorithm": "Algorithm",
    "agnostic": "Agnostic training",
    "faults": "Faults and attacks",
    "availability": "Availability and simulated time",
    "privacy": "Differential privacy",
    "loop": "Rounds and engine",
    "ray": "Engine ray",
}


class SettingOption(click.Option):
    """An option of a setting; `section` is the setting's, see SECTIONS."""

    section = "data"


def write_options(
    command: click.Command, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    """Write a command's options: its own, then those of settings, all of them or the basic ones."""
    shows_all = bool(ctx.meta.get(ALL))
    groups: dict[str, list[click.Option]] = {}
    options = [param for param in command.get_params(ctx) if isinstance(param, click.Option)]
    for option in options:
        heading = "Options"
        if isinstance(option, SettingOption):
            heading = SECTIONS[option.section] if shows_all else "Basic settings"
            if not shows_all and option.name not in BASIC:
                continue
        groups.setdefault(heading, []).append(option)
    for heading, members in groups.items():
        records = [record for one in members if (record := one.get_help_record(ctx))]
        if not shows_all:
            records = [(names, shortened(text)) for names, text in records]
        with formatter.section(heading):
            formatter.write_dl(records, col_max=30)
    if not shows_all:
        number = sum(isinstance(option, SettingOption) for option in options)
        formatter.write_paragraph()
        formatter.write_text(f"All {number} settings, in groups: {ctx.command_path} --help-all")


def shortened(text: str) -> str:
    """Return the first clause of an option's help, with what stands in brackets at its end.

    >>> shortened("Cut into sessions: a check-in later than this. More.  [default: 24h]")
    'Cut into sessions.  [default: 24h]'
    """
    said, gap, rest = text.partition("  [")
    ends = [at for mark in (". ", ": ", "; ") if (at := said.find(mark)) > 0]
    if ends:
        said = said[: min(ends)] + "."
    return said + gap + rest


def range_text(info: FieldInfo) -> str:
    """Return the range of a setting in words; empty if it has none."""
    bounds = dict(_bounds([*info.metadata, info.annotation]))
    low, high = bounds.get("ge"), bounds.get("le")
    if "gt" in bounds and high is None and "lt" not in bounds:
        return f"above {bounds['gt']:g}"
    if "gt" in bounds:
        return f"above {bounds['gt']:g}, below {bounds['lt']:g}"
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    if low is not None and "lt" in bounds:
        limit = bounds["lt"]  # only of whole numbers above 1
        return f"{low:g} to {limit - 1:,}" if limit > 1 else f"{low:g} to below {limit:g}"
    return "" if low is None else f"at least {low:g}"


def _bounds(parts: Sequence[Any]) -> Iterator[tuple[str, float]]:
    """Yield (kind, number) of the bounds in a setting's metadata and in its annotation."""
    for part in parts:
        for kind in ("ge", "gt", "le", "lt"):
            value = getattr(part, kind, None)
            if value is not None:
                yield kind, value
        yield from _bounds([*getattr(part, "metadata", ()), *_inside(part)])


def _inside(part: Any) -> Collection[Any]:
    return get_args(part) if not isinstance(part, str) else ()
