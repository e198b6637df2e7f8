"""Text about data sets."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from fedgru.console.plots import spark_line, sums_of
from fedgru.console.tables import align, count

Facts: TypeAlias = Mapping[str, Any]
MOST_MARKS = 72  # of a plot, beside each other


def describe_data_sets(passports: Sequence[Facts]) -> str:
    """Return the table of data sets, a row per passport."""
    rows = [("name", "check-ins", "users", "venues", "first", "last", "source")]
    for passport in passports:
        counts, span, source = (passport[key] for key in ("counts", "span", "source"))
        numbers = [f"{counts[key]:,}" for key in ("check_ins", "users", "venues")]
        days = [span[key][:10] for key in ("first", "last")]
        rows.append((passport["name"], *numbers, *days, source.get("file", source["kind"])))
    return align(rows, right=(1, 2, 3))


def describe_data_set(facts: Facts) -> str:
    """Return the facts of `fedgru.data.passport.describe` as aligned text."""
    counts = facts["counts"]
    title = (
        f"{facts['name']}: {count(counts['check_ins'], 'check-in')} of "
        f"{count(counts['users'], 'user')} at {count(counts['venues'], 'venue')}"
    )
    blocks = [align(_overview(facts)), _per_user(facts["check_ins_per_user"])]
    if "quality" in facts:
        blocks += _quality(facts["quality"], counts)
    if facts["source"]["kind"] != "made-up city":
        blocks.append(_ledger(facts))
    return "\n\n".join([title, *blocks])


def describe_published(published: Sequence[Facts]) -> str:
    """Return a block of lines per published data set, see `fedgru.data.published.Published`."""
    blocks = []
    for one in published:
        size = None if one["size_bytes"] is None else f"{one['size_bytes']:,} bytes"
        rows = (
            ("import by", f"fedgru data import {one['format']}"),
            ("address", one["address"]),
            ("files", one["files"]),
            ("counts", one["counts"]),
            ("licence", one["licence"]),
            ("cite", one["citation"]),
            ("size", size or "unknown"),
            ("SHA-256", one["sha256"] or "unknown"),
        )
        blocks.append(f"{one['name']}\n{align([('', *row) for row in rows])}")
    return "\n\n".join(blocks)


def _overview(facts: Facts) -> list[tuple[str, str, str]]:
    span, zone, counts = facts["span"], facts["time_zone"], facts["counts"]
    first, last = (span[key].replace("T", " ").rstrip("Z") for key in ("first", "last"))
    offsets = sorted(zone["offsets_min"].items(), key=lambda item: -item[1])
    clocks = [f"{utc_offset(int(offset))} ({number:,})" for offset, number in offsets[:3]]
    if len(offsets) > 3:
        clocks.append(f"{len(offsets) - 3} more")

    def shares(commonest: Sequence[tuple[str, int]]) -> str:
        return ", ".join(f"{value} {n / counts['check_ins']:.1%}" for value, n in commonest)

    commonest = shares(facts["commonest_categories"])
    rows = [
        *_source(facts),
        ("time", f"{first} to {last} UTC"),
        ("local clock", ", ".join(clocks)),
        *(
            (f"{name} hour", f"{hour:02}:00 local time")
            for name in ("busiest", "quietest")
            if (hour := zone[f"{name}_local_hour"]) is not None
        ),
    ]
    if commonest:
        rows += [
            ("categories", f"{counts['categories']:,} ({facts['categories']['scheme']})"),
            ("commonest", commonest),
            ("raw categories", f"{counts['raw_categories']:,}"),
        ]
    else:
        rows.append(("categories", "none"))
    for name, number in facts.get("own", {}).items():
        values = shares(facts["commonest_own"][name])
        rows.append((f"kept {name}", f"{count(number, 'value')}: {values}" if number else "empty"))
    if zone["warning"]:
        rows.append(("warning", zone["warning"]))
    if facts["box_deg"]:
        rows += [
            (name, "{:.4f} to {:.4f}".format(*facts["box_deg"][key]))
            for name, key in (("latitude", "lat"), ("longitude", "lon"))
        ]
    if facts["best_possible_accuracy"] is not None:
        best = f"{facts['best_possible_accuracy']:.4f} over all check-ins"
        rows.append(("best possible accuracy", best))
    return [("", *row) for row in rows]


def _source(facts: Facts) -> list[tuple[str, str]]:
    """Return the overview's rows about the data set's source."""
    source = facts["source"]
    if source["kind"] == "made-up city":
        settings = ", ".join(f"{key} {value}" for key, value in facts["settings"].items())
        return [("source", "made-up city"), ("settings", settings)]
    encodings = {"utf-8-sig": "UTF-8 with byte order mark", "utf-8": "UTF-8", "latin-1": "Latin-1"}
    encodings["windows-1252"] = "Windows-1252"
    layouts = {"tsmc2014": "TSMC2014", "iso8601": "ISO 8601", "unix": "Unix seconds"}
    encoding, layout = source["encoding"], source["time_layout"]
    how = [source["kind"], source["compression"], encodings.get(encoding, encoding)]
    how.append(f"times as {layouts.get(layout, layout)}")
    return [
        ("source", f"{source['file']}, {count(source['rows'], 'row')}"),
        ("read as", ", ".join(word for word in how if word != "none")),
    ]


def _per_user(quantiles: Mapping[str, float]) -> str:
    names = {"0": "min", "50": "median", "100": "max"}
    percent = [key for key in quantiles if key != "mean"]
    rows = [
        ["", *(names.get(key, f"{key}%") for key in percent)],
        ["", *(f"{quantiles[key]:,}" for key in percent)],
    ]
    table = align(rows, right=range(1, len(rows[0])))
    return f"Check-ins per user (mean {quantiles['mean']:,.1f})\n{table}"


def _quality(quality: Facts, counts: Mapping[str, int]) -> list[str]:
    """Return blocks of text about the result of `fedgru.data.quality.describe_quality`."""
    days, size = sums_of(quality["per_day"]["counts"], MOST_MARKS)
    each = "a day" if size == 1 else f"{size} days"
    hours, users = quality["per_local_hour"], quality["users_by_check_ins"]
    ranges = "1, 2 to 3, 4 to 7 ..." if len(users) > 3 else "1, 2 to 3 ..."
    busiest = hours.index(max(hours))
    plots = [
        f"Check-ins from {quality['per_day']['first']} on (a mark: {each}; highest {max(days):,})",
        f"  |{spark_line(days)}|",
        f"Check-ins per local hour, 0 to 23 (highest {max(hours):,} at {busiest}:00)",
        f"  |{spark_line(hours)}|",
        f"Users with {ranges} check-ins (highest {max(users):,})",
        f"  |{spark_line(users)}|",
    ]
    rows = [
        ("", "repeats of user, venue and second", f"{quality['repeats']:,}", "check-ins"),
        ("", "faster than a plane", f"{quality['jumps']:,}", f"of {quality['moves']:,} moves"),
        ("", "one visit", f"{quality['one_visit_venues']:,}", f"of {counts['venues']:,} venues"),
        ("", "at coordinates 0, 0", f"{quality['at_origin']:,}", "check-ins"),
    ]
    warnings = [f"Warning: {sentence}" for sentence in quality["warnings"]]
    return ["\n".join(plots), "\n".join([align(rows, right=(2,)), *warnings])]


def _ledger(facts: Facts) -> str:
    num_rows, lines = facts["source"]["rows"], facts["ledger"]
    rows = []
    for line in lines:
        examples = ", ".join(f"{example:,}" for example in line["examples"])
        more = ", ..." if line["rows"] > len(line["examples"]) else ""
        share = f"{line['rows'] / num_rows:.1%}"
        row = "row" if line["rows"] == 1 else "rows"
        rows.append(
            (
                "",
                line["kind"],
                f"{line['rows']:,}",
                share,
                line["reason"],
                f"{row} {examples}{more}",
            )
        )
    for kind in ("repaired", "dropped"):
        if kind not in {line["kind"] for line in lines}:
            rows.insert(0, ("", kind, "0", "0.0%", "", ""))
    table = align(rows, right=(2, 3))
    return f"Rows changed or dropped at import\n{table}"


def utc_offset(offset_min: int) -> str:
    """Return an offset from UTC in words: UTC-04:00."""
    hours, minutes = divmod(abs(offset_min), 60)
    return f"UTC{'-' if offset_min < 0 else '+'}{hours:02}:{minutes:02}"
