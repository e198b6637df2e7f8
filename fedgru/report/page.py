"""The HTML of a report: tables, figures, sections and the page around them.

Every text that comes in is data and is escaped here; nothing else writes HTML.
"""

import html
import re
from dataclasses import dataclass
from importlib import resources
from string import Template

from fedgru.report.svg import to_svg

NONE = "–"  # a cell that does not apply
_NUMBER = re.compile(r"[+-]?\d[\d,.]*( (%|[kMG]?B|to .*|\(.*))?")


@dataclass(frozen=True)
class Section:
    """A part of the page: its heading, and its content as HTML, made by the functions below."""

    key: str
    title: str
    content: str


_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
$css
</style>
</head>
<body>
<header>
<h1>$title</h1>
$head
</header>
<nav aria-label="Contents"><ol>
$contents
</ol></nav>
<main>
$sections
</main>
<footer><p>$footer</p></footer>
</body>
</html>
""")


def page(title, head, sections, footer):
    """Return the whole page.

    Args:
        title, footer: texts.
        head: HTML below the title.
        sections: list of Section.
    """
    return _PAGE.substitute(
        title=html.escape(title),
        css=resources.files(__package__).joinpath("report.css").read_text("utf-8").strip(),
        head=head,
        contents="\n".join(
            f'<li><a href="#{s.key}">{html.escape(s.title)}</a></li>' for s in sections
        ),
        sections="\n".join(
            f'<section id="{s.key}">\n<h2>{html.escape(s.title)}</h2>\n{s.content}\n</section>'
            for s in sections
        ),
        footer=html.escape(footer),
    )


def paragraph(text):
    """Return a paragraph of plain text."""
    return f"<p>{html.escape(text)}</p>"


def command(text):
    """Return a command line to copy."""
    return f"<pre><code>{html.escape(text)}</code></pre>"


def tiles(run, items):
    """Return a run's key results.

    Args:
        run: its number, for the colour.
        items: (name, value, detail), texts.
    """
    cells = "".join(
        f'<div class="tile run-{run}"><dt>{html.escape(name)}</dt>'
        f"<dd>{html.escape(value)}<small>{html.escape(detail)}</small></dd></div>"
        for name, value, detail in items
    )
    return f'<dl class="tiles">{cells}</dl>'


def table(header, rows, caption, width=1):
    """Return a table that scrolls in its own box; columns of numbers stand right-aligned.

    Args:
        header: texts.
        rows: lists of texts, as many as the header has; None is a cell that does not apply.
        caption: one sentence.
        width: columns that it takes in a grid; 3 is the whole row.
    """
    kinds = [
        ' class="n"' if all(_is_number(row[i]) for row in rows) else "" for i in range(len(header))
    ]

    def cells(tag, texts):
        return "".join(
            f"<{tag}{kind}>{html.escape(NONE if text is None else str(text))}</{tag}>"
            for kind, text in zip(kinds, texts, strict=True)
        )

    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    caption = html.escape(caption)
    return (
        f'<div class="box width-{width}"><p class="caption">{caption}</p>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}">\n'
        f"<table>\n<thead><tr>{cells('th', header)}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table></div></div>"
    )


def figure(key, title, drawn, caption):
    """Return a figure with its heading and its caption.

    Args:
        key: letters, digits and dashes, different for each figure of the page.
        title: text.
        drawn: matplotlib figure.
        caption: a sentence that says what to read from it.
    """
    svg = to_svg(drawn, key, f"{title}. {caption}")
    return (
        f'<figure id="{key}"><h3>{html.escape(title)}</h3>\n{svg}\n'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def grid(*boxes):
    """Return figures and tables side by side, as many as the screen has room for."""
    return "\n".join(('<div class="grid">', *boxes, "</div>"))


def _is_number(text):
    return text is None or _NUMBER.fullmatch(str(text)) is not None
