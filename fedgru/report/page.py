"""The HTML of a report: tables, figures, sections and the page around them, in `templates`.

Every input text is data and is escaped by jinja2. HTML is of type Markup, which these functions
and `svg.to_svg` return; nothing else writes HTML.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from fedgru.core.visible import visible
from fedgru.report.svg import to_svg

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure

    from fedgru.core.verdict import Verdict

NONE = "–"  # a cell that does not apply
_NUMBER = re.compile(r"[+-]?\d[\d,.]*( (%|[kMG]?B|to .*|\(.*))?")


@dataclass(frozen=True)
class Section:
    """A part of the page: its heading, and its content as HTML, made by the functions below."""

    key: str
    title: str
    content: Markup


def page(title: str, head: Markup, sections: list[Section], footer: str) -> str:
    """Return the whole page.

    Args:
        title, footer: texts.
        head: Markup below the title.
        sections: list of Section.
    """
    css = resources.files(__package__).joinpath("report.css").read_text("utf-8").strip()
    template = _templates().get_template("page.html")
    whole = template.render(
        title=title, css=Markup(css), head=head, sections=sections, footer=footer
    )
    return visible(whole)  # names whose marks would reverse the order of what follows


def paragraph(text: str) -> Markup:
    """Return a paragraph of plain text."""
    return _parts().paragraph(text)


def command(text: str) -> Markup:
    """Return a command line to copy."""
    return _parts().command(text)


def verdict(run: int, label: str, found: Verdict) -> Markup:
    """Return what is said of a run before all numbers.

    Args:
        run: its number, for the colour.
        label: its name where there are several; else empty.
        found: Verdict.
    """
    return _parts().verdict(run, label, found.headline, " ".join(found.more))


def tiles(run: int, items: Sequence[tuple[str, str | None, str]]) -> Markup:
    """Return a run's key results.

    Args:
        run: its number, for the colour.
        items: (name, value, detail), texts.
    """
    return _parts().tiles(run, items)


def table(
    header: Sequence[str], rows: Sequence[Sequence[str | None]], caption: str, width: int = 1
) -> Markup:
    """Return a table that scrolls in its own box; columns of numbers are right-aligned.

    Args:
        header: texts.
        rows: lists of texts, as many as the header has; None is a cell that does not apply.
        caption: one sentence.
        width: columns that it takes in a grid; 3 is the whole row.
    """
    kinds = [all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    return _parts().table(header, rows, kinds, caption, width)


def figure(key: str, title: str, drawn: Figure, caption: str) -> Markup:
    """Return a figure with its heading and its caption.

    Args:
        key: letters, digits and dashes, different for each figure of the page.
        title: text.
        drawn: matplotlib figure.
        caption: a sentence about what the figure shows.
    """
    svg = to_svg(drawn, key, f"{title}. {caption}")
    return _parts().figure(key, title, svg, caption)


def grid(*boxes: Markup) -> Markup:
    """Return figures and tables side by side, as many as fit the screen."""
    return _parts().grid(boxes)


def stack(*parts: Markup) -> Markup:
    """Return parts of the page one below the other."""
    return Markup("\n").join(parts)


def _is_number(text: str | None) -> bool:
    return text is None or _NUMBER.fullmatch(str(text)) is not None


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        autoescape=True,
        keep_trailing_newline=True,
        loader=PackageLoader(__package__),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    templates.globals.update(none_cell=NONE, zip=zip)
    return templates


@cache
def _parts() -> Any:
    """The macros of parts.html."""
    return _templates().get_template("parts.html").module
