"""Text about a prediction and about an export."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedgru.console.data_sets import utc_offset
from fedgru.console.tables import align, count
from fedgru.core.visible import in_one_line


def describe_forecast(found: Mapping[str, Any]) -> str:
    """Return the text of a prediction, see `past.forecast`."""
    title = f"{in_one_line(found['user'])} after {count(found['check_ins'], 'check-in')}"
    if found["last"]:
        last = found["last"]
        when = _local(last)
        kind = "" if last["category"] is None else f", {in_one_line(last['category'])}"
        title += f", the last at {in_one_line(last['venue'])}{kind} ({when})"
    if "asked" in found:
        title += f"; asked at {_local(found['asked'])}"
    lines = [title]
    if not found["check_ins"]:
        lines.append("Cold start: no check-in yet. These are the frequencies of all clients.")
    elif found["cold_start"]:
        lines.append("Cold start: fewer check-ins than any client of the run had.")
    unknown = dict(found["unknown"])
    unknown.setdefault(found["target"], unknown.pop("target"))  # where it is no feature too
    whole = count(found["check_ins"], "check-in")
    named = [
        "this user" if name == "user" else f"the {name.replace('_', ' ')} of {number:,} of {whole}"
        for name, number in unknown.items()
        if number
    ]
    if named:
        lines.append(f"Not seen in training: {', '.join(named)}.")
    rows = [
        ("", f"{place:>3}", row["value"], f"{row['probability']:.4f}")
        for place, row in enumerate(found["top"], start=1)
    ]
    lines.append(align(rows))
    if "came" in found:
        came = found["came"]
        what = (
            "a check-in without a category" if came["value"] is None else in_one_line(came["value"])
        )
        where = (
            "not seen in training"
            if came["rank"] is None
            else f"rank {came['rank']}, {came['probability']:.4f}"
        )
        lines.append(f"What came: {what} ({where})")
    return "\n".join(lines)


def _local(moment: Mapping[str, Any]) -> str:
    """Return the `time_s` of something on the clock of its `offset_min`."""
    local = datetime.fromtimestamp(moment["time_s"] + 60 * moment["offset_min"], UTC)
    zone = utc_offset(moment["offset_min"]) if moment["offset_min"] else "UTC"
    return f"{local:%Y-%m-%d %H:%M} {zone}"


def describe_export(folder: Path, description: Mapping[str, Any]) -> str:
    """Return the text about an export: the model, its inputs and its output."""
    names = [f"{entry['name']} ({entry['dtype']})" for entry in description["inputs"]]
    lines = [
        f"{folder}: {description['model']['cell']} of {description['model']['hidden_dim']} units, "
        f"round {description['round']}, as {description['kind']}",
        f"Inputs: {', '.join(names)}",
        f"Output: probabilities of {len(description['classes']):,} classes of "
        f"{description['target']}",
    ]
    if description["prior"]["kind"] != "none":
        lines.append(
            f"log_prior is the prior {description['prior']['kind']} over the person's own past: "
            "fedgru.predict.predictor.Stream computes it, see docs/predict.md."
        )
    if description["asked_at"]:
        lines.append(
            "asked_... are of the moment of the next check-in: call the model for a check-in when "
            "that moment is known, see docs/predict.md."
        )
    if "candidates" in description:
        lines.append(
            "candidate_... are the places that the person knows: Stream computes them too."
        )
    if "noise" in description["representation"]:
        lines.append(
            "noise is standard normal and hides the concept: draw new noise for each check-in."
        )
    return "\n".join(lines)
