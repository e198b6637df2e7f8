"""The HTML of a report: tables, figures, sections and the page around them, in `templates`.

Every text that comes in is data and is escaped by jinja2. What is HTML already is Markup, which
these functions return, and `svg.to_svg`; nothing else writes HTML.
"""

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from markupsafe import Markup

from fedgru.report.svg import to_svg

NONE = "–"  # a cell that does not apply
_NUMBER = re.compile(r"[+-]?\d[\d,.]*( (%|[kMG]?B|to .*|\(.*))?")


@dataclass(frozen=True)
class Section:
    """A part of the page: its heading, and its content as HTML, made by the functions below."""

    key: str
    title: str
    content: Markup


def page(title, head, sections, footer):
    """Return the whole page.

    Args:
        title, footer: texts.
        head: Markup below the title.
        sections: list of Section.
    """
    css = resources.files(__package__).joinpath("report.css").read_text("utf-8").strip()
    template = _templates().get_template("page.html")
    return template.render(
        title=title, css=Markup(css), head=head, sections=sections, footer=footer
    )


def paragraph(text):
    """Return a paragraph of plain text."""
    return _parts().paragraph(text)


def command(text):
    """Return a command line to copy."""
    return _parts().command(text)


def tiles(run, items):
    """Return a run's key results.

    Args:
        run: its number, for the colour.
        items: (name, value, detail), texts.
    """
    return _parts().tiles(run, items)


def table(header, rows, caption, width=1):
    """Return a table that scrolls in its own box; columns of numbers stand right-aligned.

    Args:
        header: texts.
        rows: lists of texts, as many as the header has; None is a cell that does not apply.
        caption: one sentence.
        width: columns that it takes in a grid; 3 is the whole row.
    """
    kinds = [all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    return _parts().table(header, rows, kinds, caption, width)


def figure(key, title, drawn, caption):
    """Return a figure with its heading and its caption.

    Args:
        key: letters, digits and dashes, different for each figure of the page.
        title: text.
        drawn: matplotlib figure.
        caption: a sentence that says what to read from it.
    """
    svg = to_svg(drawn, key, f"{title}. {caption}")
    return _parts().figure(key, title, svg, caption)


def grid(*boxes):
    """Return figures and tables side by side, as many as the screen has room for."""
    return _parts().grid(boxes)


def stack(*parts):
    """Return parts of the page one below the other."""
    return Markup("\n").join(parts)


def _is_number(text):
    return text is None or _NUMBER.fullmatch(str(text)) is not None


@cache
def _templates():
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
def _parts():
    """The macros of parts.html."""
    return _templates().get_template("parts.html").module
