"""The page about a data set: its check-ins by day, hour and user, and where they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedgru.core.errors import DataError
from fedgru.core.figures import new_figure
from fedgru.core.version import __version__
from fedgru.data.checkins import CheckIns
from fedgru.report.page import Section, figure, grid, page, paragraph, stack, table
from fedgru.report.svg import COLOURS, WIDTH, in_page_style
from fedgru.storage.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAP_BINS = 120  # squares in the longer direction


def write_data_page(facts: Mapping[str, Any], check_ins: CheckIns, output: str | Path) -> int:
    """Write the page of a data set, whole or not at all; one that is there is replaced.

    Args:
        facts: from `fedgru.data.passport.describe`, with "quality" from
            `fedgru.data.quality.describe_quality`.
        check_ins: `CheckIns`.
        output: path of the file, with the ending .html.

    Returns:
        Its size in bytes.

    Raises:
        DataError: if it cannot be written.
    """
    output = Path(output)
    if output.suffix.lower() not in (".html", ".htm"):
        raise DataError(f"`html` is {output}, expected a name that ends in .html.")
    content = make_data_page(facts, check_ins).encode()
    try:
        write_whole(output, lambda stream: stream.write(content))
    except OSError as error:
        raise DataError(f"{output} cannot be written: {error.strerror or error}.") from None
    return len(content)


def make_data_page(facts: Mapping[str, Any], check_ins: CheckIns) -> str:
    """Return the page, see `write_data_page`."""
    quality, counts = facts["quality"], facts["counts"]
    head = paragraph(
        f"{counts['check_ins']:,} check-ins of {counts['users']:,} users at {counts['venues']:,} "
        f"venues, {facts['span']['first']} to {facts['span']['last']}."
    )
    warnings = [paragraph(sentence) for sentence in quality["warnings"]]
    numbers = table(
        ["what", "number"],
        [
            [
                f"repeats of user, venue and second ({counts['check_ins']:,} check-ins)",
                f"{quality['repeats']:,}",
            ],
            [f"moves faster than a plane (of {quality['moves']:,})", f"{quality['jumps']:,}"],
            [
                f"venues with one check-in (of {counts['venues']:,})",
                f"{quality['one_visit_venues']:,}",
            ],
            ["check-ins at coordinates 0, 0", f"{quality['at_origin']:,}"],
        ],
        "What is often a fault of the data",
    )
    found = stack(*(warnings or [paragraph("Nothing deserves a warning.")]), numbers)
    when = grid(
        figure(
            "per-day",
            "Check-ins per day",
            _per_day(quality["per_day"]),
            "Local days; a gap is a time without records.",
        ),
        figure(
            "per-hour",
            "Check-ins per hour of the day",
            _bars(quality["per_local_hour"], "hour of the day, local", "check-ins"),
            "Local clock; people sleep at night, so the hours from 1:00 to 5:00 are low.",
        ),
    )
    labels = [_range(i) for i in range(len(quality["users_by_check_ins"]))]
    users = figure(
        "per-user",
        "Users by their check-ins",
        _bars(quality["users_by_check_ins"], "check-ins of a user", "users", labels),
        "Each bar covers twice the range of the one before.",
    )
    sections = [
        Section("warnings", "What to look at", found),
        Section("when", "When", when),
        Section("users", "Users", users),
    ]
    if facts["box_deg"]:
        drawn = figure(
            "map",
            "Where the check-ins are",
            _map(check_ins),
            "Colour: check-ins in a square, on a logarithmic scale; squares without one are blank.",
        )
        sections.append(Section("where", "Where", drawn))
    return page(f"Data set {facts['name']}", head, sections, f"Made by fedgru {__version__}.")


def _range(power: int) -> str:
    low = 2**power
    return str(low) if power == 0 else f"{low}-{2 * low - 1}"


@in_page_style
def _per_day(per_day: Mapping[str, Any]) -> Figure:
    figure, ((axis,),) = new_figure(1, 1, WIDTH, 2.6)
    days = np.datetime64(per_day["first"]) + np.arange(len(per_day["counts"]))
    axis.plot(days, per_day["counts"], color=COLOURS[0], lw=1.0)
    axis.set(ylabel="check-ins")
    axis.set_ylim(bottom=0)
    axis.locator_params(axis="y", nbins=4)
    axis.tick_params(axis="x", rotation=30)
    return figure


@in_page_style
def _bars(counts: list[int], xlabel: str, ylabel: str, labels: list[str] | None = None) -> Figure:
    figure, ((axis,),) = new_figure(1, 1, WIDTH, 2.6)
    axis.bar(np.arange(len(counts)), counts, color=COLOURS[0], width=0.8)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    if labels is not None:
        axis.set_xticks(np.arange(len(counts)), labels, rotation=45)
    return figure


@in_page_style
def _map(check_ins: CheckIns) -> Figure:
    from matplotlib.colors import LogNorm

    known = ~np.isnan(check_ins.lat_deg)
    lat_deg, lon_deg = check_ins.lat_deg[known], check_ins.lon_deg[known]
    # the middle 99.8 %: one wrong coordinate must not make the city a point
    box = [np.percentile(degrees, [0.1, 99.9]) for degrees in (lon_deg, lat_deg)]
    shape = [(low - 1e-3, high + 1e-3) for low, high in box]
    figure, ((axis,),) = new_figure(1, 1, WIDTH, 4.4)
    counts, x, y = np.histogram2d(lon_deg, lat_deg, MAP_BINS, shape)
    drawn = axis.pcolormesh(
        x,
        y,
        np.where(counts > 0, counts, np.nan).T,
        cmap="cividis",
        norm=LogNorm(),
        rasterized=True,
    )
    axis.set_aspect(1 / np.cos(np.radians(np.clip(np.mean(axis.get_ylim()), -80, 80))))
    axis.set(xlabel="longitude (degrees)", ylabel="latitude (degrees)")
    axis.ticklabel_format(useOffset=False)
    axis.locator_params(axis="x", nbins=4)
    bar = figure.colorbar(drawn, ax=axis, orientation="horizontal", aspect=30, pad=0.02)
    bar.set_label("check-ins")
    bar.outline.set_visible(False)
    return figure
