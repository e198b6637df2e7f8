"""matplotlib figures as inline SVG with the colours and the font of the page.

A figure is drawn with placeholder colours, which become CSS variables: so it also fits a dark
theme. Text stays text.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 4.5  # inches, shown as wide as its column
FONT_PT = 10  # in a column of 345 px, a phone's, still above 10 px
INK, FAINT, PAPER = "#010101", "#020202", "#030303"
# Wong 2011 (doi:10.1038/nmeth.1618): distinct with any kind of colour vision
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")
_VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)", PAPER: "var(--paper)"} | {
    colour: f"var(--run-{i})" for i, colour in enumerate(COLOURS)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a name is no formula
    "font.size": FONT_PT,
    **dict.fromkeys(("axes.labelsize", "xtick.labelsize", "ytick.labelsize"), FONT_PT),
    **{"legend.fontsize": FONT_PT, "legend.frameon": False},
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **{"axes.edgecolor": FAINT, "xtick.labelcolor": INK, "ytick.labelcolor": INK},
    **{"axes.spines.top": False, "axes.spines.right": False},
    **{"axes.grid": True, "axes.axisbelow": True, "grid.color": FAINT, "grid.linewidth": 0.4},
    **{"axes.facecolor": "none", "figure.facecolor": "none"},
}


_Args = ParamSpec("_Args")


def in_page_style(draw: Callable[_Args, Figure]) -> Callable[_Args, Figure]:
    """Let a drawing function use the page's style."""

    @functools.wraps(draw)
    def styled(*args: _Args.args, **kwargs: _Args.kwargs) -> Figure:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


def to_svg(figure: Figure, key: str, label: str) -> Markup:
    """Return a figure as an <svg> element of a page, a Markup.

    Args:
        figure: matplotlib Figure.
        key: letters, digits and dashes, different for each figure of a page; begins its ids.
        label: a description for screen readers.
    """
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": key}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{key}-", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    opening, _, rest = svg.partition(">")
    view_box = re.search(r'viewBox="[^"]*"', opening)
    assert view_box is not None, "matplotlib writes a viewBox"
    return Markup(
        f'<svg class="plot" role="img" aria-label="{escape(label)}" {view_box[0]} '
        f'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{rest}'
    )
