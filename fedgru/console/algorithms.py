"""Text about the algorithms that there are."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

WIDTH = 100
_NO_BREAK = "\0"  # between an option and its value


class ListedAlgorithm(Protocol):
    """What is shown of a `Listed`."""

    @property
    def name(self) -> str: ...
    @property
    def paper(self) -> str: ...
    @property
    def does(self) -> str: ...
    @property
    def asked_by(self) -> Mapping[str, Any]: ...
    @property
    def needs(self) -> Mapping[str, Any]: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...
    @property
    def keeps(self) -> str: ...
    @property
    def sends(self) -> str: ...
    @property
    def engines(self) -> Sequence[str]: ...
    @property
    def local_steps(self) -> str: ...
    @property
    def package(self) -> str: ...
    @property
    def explained(self) -> str: ...


class AlgorithmListing(Protocol):
    """What is shown of a `Listing`."""

    @property
    def by_name(self) -> Sequence[ListedAlgorithm]: ...
    @property
    def by_setting(self) -> Sequence[ListedAlgorithm]: ...
    @property
    def not_loaded(self) -> Mapping[str, str]: ...


def describe_algorithms(found: AlgorithmListing) -> str:
    """Return the list of algorithms, no line of it longer than WIDTH.

    Settings are options in it, such as --client-lr.
    """
    everything = [*found.by_name, *found.by_setting]
    # a long name of another package's goes on a line of its own
    name_width = max(len(one.name) for one in everything if len(one.name) <= 16)
    engines_width = max(len(" ".join(one.engines)) for one in everything)
    widths = (name_width, engines_width, len("local steps"))
    lines = [_line(("algorithm", "engines", "local steps", "options, with their defaults"), widths)]
    for one in found.by_name:
        lines += _rows(one, widths)
    lines += ["", "With most of them, by other options:"]
    for one in found.by_setting:
        lines += _rows(one, widths)
    for name, why in found.not_loaded.items():
        lines += ["", *_wrapped(f"{name} is left out: {why}", "")]
    lines += ["", "The formula of one, its paper, and what differs from it: fedgru algorithms NAME"]
    return "\n".join(lines)


def describe_algorithm(one: ListedAlgorithm) -> str:
    """Return all of one algorithm, with the docstring of its class."""
    lines = [f"{one.name}: {one.does}" if one.does else one.name]
    facts = {
        "paper": one.paper,
        "package": one.package,
        "options": _options(one),
        "a client keeps": one.keeps or "nothing",
        "sent besides": one.sends or "nothing",
        "engines": ", ".join(one.engines),
        "local steps": one.local_steps,
    }
    for name, value in facts.items():
        if value:
            lines += _wrapped(value, f"  {name + ':':16}")
    if one.explained:
        lines += ["", one.explained]
    return "\n".join(lines)


def _rows(one: ListedAlgorithm, widths: Sequence[int]) -> list[str]:
    """The lines of one algorithm: its options beside its name, and what it does below."""
    cells = ("", " ".join(one.engines), one.local_steps)
    head = [one.name] if len(one.name) > widths[0] else []
    begin = _line((one.name if not head else "", *cells[1:], ""), widths)
    lines = head + _wrapped(_options(one), begin.ljust(sum(widths) + 2 * len(widths)))
    below = " " * (widths[0] + 2)
    who = one.paper + (f"; package {one.package}" if one.package else "")
    lines += _wrapped(f"{one.does}: {who}" if one.does else who, below)
    lines += _wrapped(_more(one), below)
    return lines


def _line(cells: Iterable[str], widths: Sequence[int]) -> str:
    *aligned, last = cells
    return "  ".join([*(c.ljust(w) for c, w in zip(aligned, widths, strict=True)), last]).rstrip()


def _more(one: ListedAlgorithm) -> str:
    parts = [f"a client keeps {one.keeps}"] if one.keeps else []
    parts += [f"sent besides: {one.sends}"] if one.sends else []
    return "; ".join(parts)


def _options(one: ListedAlgorithm) -> str:
    """The settings that ask for it, as options; the value of any number is N."""
    given = {**one.asked_by, **one.needs, **one.settings}
    words = (
        f"--{name.replace('_', '-')}{_NO_BREAK}{'N' if value is None else value}"
        for name, value in given.items()
    )
    return " ".join(words)


def _wrapped(text: str, begin: str) -> list[str]:
    """Lines of a text that goes on below itself; none if it is empty."""
    if not text:
        return []
    lines = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=begin,
        subsequent_indent=" " * len(begin),
        break_on_hyphens=False,
        break_long_words=False,
    )
    return [line.replace(_NO_BREAK, " ") for line in lines]
