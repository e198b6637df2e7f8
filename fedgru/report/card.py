"""A model card in Markdown (Mitchell et al. 2019): what a run is, does and must not be used for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgru import config
from fedgru.core import verdict
from fedgru.core.errors import DataError, RunError
from fedgru.core.visible import in_one_line
from fedgru.data import datasets
from fedgru.privacy import covered
from fedgru.report.words import count, four

if TYPE_CHECKING:
    from fedgru.config import Settings
    from fedgru.runs.folder import RunFolder

METRICS = ("acc@1", "acc@5", "loss")
LIMITS = (
    "The people scored are those of this data set; others behave otherwise. The interval covers "
    "the draw of people, not that of cities, years or seeds.",
    "A check-in is what somebody chose to share. Places that people do not share are missing, so "
    "this is no record of where they were.",
    "Whoever has the model and a person's check-ins can predict that person. Do not use it to "
    "follow people who have not agreed to it.",
)


def make_card(folder: RunFolder, data_dir: str | Path) -> str:
    """Return the model card of an evaluated run, as Markdown. Nothing is written.

    Args:
        folder: RunFolder.
        data_dir: folder of data sets; without the run's own the card says that it is missing.

    Raises:
        RunError: if the run has not been evaluated.
    """
    test = folder.test()
    if not test:
        raise RunError(f"{folder.path} has not been evaluated: fedgru eval {folder.path}")
    settings, facts = folder.settings(), folder.facts()
    said = verdict.of_test(test, folder.kind.counting, test.get("prior"))
    parts = [
        f"# {settings.loop.name}: the next {settings.inputs.target} of a person",
        f"**{said.headline}** {' '.join(said.more)}",
        "## Data",
        *_data(settings, facts, data_dir),
        "## Method",
        *_method(settings, facts, folder),
        "## Results",
        *_results(test),
        "## What it reveals",
        *_leakage(test),
        "## Privacy",
        *_privacy(settings, facts, test),
        "## Limits",
        "\n".join(f"* {limit}" for limit in LIMITS),
    ]
    return "\n\n".join(parts) + "\n"


def _data(settings: Settings, facts: dict[str, Any], data_dir: str | Path) -> Iterator[str]:
    yield (
        f"Data set {in_one_line(settings.data.data)}, fingerprint (SHA-256) "
        f"`{facts.get('fingerprint')}`."
    )
    try:
        passport = datasets.open_data_set(settings.data.data, data_dir).passport
    except DataError as error:  # the card of a run can be made without its data
        yield f"The data set is not here, so its origin is not known: {in_one_line(str(error))}"
    else:
        counts, span, source = passport["counts"], passport["span"], passport["source"]
        yield (
            f"It comes from {in_one_line(str(source.get('file', source['kind'])))}: "
            f"{count(counts['check_ins'], 'check-in')} of {count(counts['users'], 'user')} at "
            f"{count(counts['venues'], 'venue')}, {span['first']} to {span['last']}."
        )
    rows = [
        f"| {line['step'].strip()} | {line['clients']:,} | {line['checkins']:,} |"
        for line in facts.get("coverage", ())
    ]
    if rows:
        yield "\n".join(["| step | clients | check-ins |", "| --- | --- | --- |", *rows])
    yield (
        "Each client's check-ins are split by time: 64 % train, 16 % validation, 20 % test. What "
        "is fitted is fitted on train; the round is chosen on validation."
    )


def _method(settings: Settings, facts: dict[str, Any], folder: RunFolder) -> Iterator[str]:
    yield f"Made by `{' '.join(folder.kind.command)}`, seed {settings.loop.seed}."
    if "best_round" in facts:
        best, rounds = facts["best_round"], facts["rounds"]
        yield f"Training: {facts['why']}; round {best} of {rounds} was kept."
    differences = config.differences(settings)
    rows = [f"| `{config.option(name)}` | {value} |" for name, value in differences.items()]
    if rows:
        yield "\n".join(["| setting that is not the default | |", "| --- | --- |", *rows])
    else:
        yield "All settings are the defaults."
    versions = ", ".join(f"{name} {value}" for name, value in facts.get("versions", {}).items())
    yield f"Versions: {versions}." if versions else "Its versions are not known."


def _results(test: dict[str, Any]) -> Iterator[str]:
    intervals = test.get("intervals", {}) if test["test/clients"] > 1 else {}

    def cells(row: dict[str, Any], with_intervals: bool = False) -> str:
        found = []
        for name in METRICS:
            key = f"test/{name}/micro"
            text = four(row.get(key)) or "-"
            if with_intervals and key in intervals:
                low, high = intervals[key]
                text += f" ({low:.4f} to {high:.4f})"
            found.append(text)
        return " | ".join(found)

    rows = [f"| **this run** | {cells(test, True)} |"]
    if "cold" in test:
        rows.append(f"| with the state zero at the start of test | {cells(test['cold'])} |")
    rows += [
        f"| {name.replace('_', ' ')} | {cells(row)} |" for name, row in test["baselines"].items()
    ]
    head = f"| | {' | '.join(METRICS)} |"
    yield (
        f"{test.get('task', 'next check-in').capitalize()}: "
        f"{count(test['test/targets'], 'test target')} of {count(test['test/clients'], 'client')}, "
        "each scored once. 95 % intervals over clients; lower is better for the loss alone."
    )
    yield "\n".join([head, f"|{' --- |' * (len(METRICS) + 1)}", *rows])
    if test["test/unknown_targets"]:
        yield (
            f"{test['test/unknown_targets']:,} targets are of a class that train does not have: "
            "they count as misses, and have no loss."
        )
    if "worst_tenth" in test and test["test/clients"] > 1:
        worst = test["worst_tenth"]
        yield (
            f"The worst tenth of the clients ({worst['clients']:,}) has a mean acc@1 of "
            f"{worst['acc@1']:.4f}."
        )


def _leakage(test: dict[str, Any]) -> Iterator[str]:
    """What fresh probes recover, a row for each concept."""
    rows = []
    for name, found in test.get("leakage", {}).items():
        if "not_audited" in found:
            rows.append(f"| {name} | not audited: {found['not_audited']} | | |")
        else:
            worst = found["worst"]
            rows.append(
                f"| {name} | {worst['representation']:.3f} | {worst['logits']:.3f} | "
                f"{found['floor']:.3f} |"
            )
    if not rows:
        yield "It shares no representation, so there is nothing to probe."
        return
    yield "Accuracy of a newly trained classifier that recovers a concept from the model:"
    head = ["| concept | from the representation | from the logits | always the commonest |"]
    yield "\n".join([*head, "| --- | --- | --- | --- |", *rows])


def _privacy(settings: Settings, facts: dict[str, Any], test: dict[str, Any]) -> Iterator[str]:
    if "privacy" not in facts:
        yield "No differential privacy: there is no bound on what the model tells of one person."
        return
    private = test["privacy"]
    yield (
        f"Differential privacy for each client: epsilon {private['epsilon']:.3f} at delta "
        f"{private['delta']:g}, of what it covers:"
    )
    rows = [f"| {line.what} | {line.budget} | {line.how} |" for line in covered.lines(settings)]
    yield "\n".join(["| what leaves a client | budget | how |", "| --- | --- | --- |", *rows])
