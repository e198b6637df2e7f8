"""The settings of the runs, and the data they used."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fedgru import config
from fedgru.report.page import Section, command, grid, paragraph, stack, table
from fedgru.report.words import count, each_label, of_run
from fedgru.workflows.baseline import without_effect

if TYPE_CHECKING:
    from fedgru.report.runs import ReportedRun


def chosen_settings(runs: Sequence[ReportedRun]) -> Section:
    """Settings that are not the defaults, the commands, versions and the data's fingerprint."""
    rows = []
    defaults = [config.defaults_of(run.settings) for run in runs]
    for name, (section, _) in config.fields().items():
        values = [getattr(getattr(run.settings, section), name) for run in runs]
        if any(value != own[name] for value, own in zip(values, defaults, strict=True)):
            by_run = " or ".join(dict.fromkeys(_plain(own[name]) for own in defaults))
            rows.append([config.option(name), by_run, *map(_plain, values)])
    parts = [] if rows else [paragraph("All settings are the defaults.")]
    for run in runs:
        parts.append(
            paragraph(f"To repeat {run.folder.path}, which ended with: {_end(run.facts)}.")
        )
        parts.append(command(_command(run)))
    data, fingerprint = runs[0].facts["data"], runs[0].facts["fingerprint"]
    parts.append(paragraph(f"Fingerprint (SHA-256) of the content of data set {data}:"))
    parts.append(command(fingerprint))
    header, boxes = ["setting", "default", *each_label(runs, "this run")], []
    if rows:
        several = ", in at least one run" if len(runs) > 1 else ""
        boxes.append(table(header, rows, f"Settings that are not the defaults{several}"))
    versions = [run.facts.get("versions", {}) for run in runs]
    names = dict.fromkeys(name for found in versions for name in found)
    rows = [[name, *(found.get(name) for found in versions)] for name in names]
    boxes.append(table(["package", *each_label(runs, "version")], rows, "Versions it ran with"))
    return Section("settings", "Settings", stack(*parts, grid(*boxes)))


def _command(run: ReportedRun) -> str:
    """The command that trains the run again, without settings that are the defaults."""
    kind = run.folder.kind
    words = [*kind.command]
    unread = without_effect(kind)  # allowed in a config file, not on the command line
    for name, value in config.differences(run.settings).items():
        if name not in unread:
            words += [config.option(name), _plain(value)]
    same = shlex.join([*kind.command, "--config", f"{run.folder.path}/config.toml"])
    return f"{shlex.join(words)}\n# the same: {same}"


def _end(facts: dict[str, Any]) -> str:
    if facts.get("status") != "done":
        return f"{facts.get('status', 'unknown')}, {facts.get('error', 'no more is known')}"
    if "rounds" not in facts:
        return "done"
    if "best_rounds" in facts:
        low, high = facts["best_rounds"]
        return f"done; each client kept its own best round, {low} to {high} of {facts['rounds']}"
    return f"{facts.get('why')}; best is round {facts['best_round']} of {facts['rounds']}"


def _plain(value: object) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def data_used(runs: Sequence[ReportedRun]) -> Section:
    """Rows dropped at import, clients and check-ins left out, values unknown to the model."""
    passport = runs[0].passport
    source, counts, span = passport["source"], passport["counts"], passport["span"]
    parts = [
        paragraph(
            f"Data set {passport['name']} comes from {source.get('file', source['kind'])}: "
            f"{count(counts['check_ins'], 'check-in')} of {count(counts['users'], 'user')} at "
            f"{count(counts['venues'], 'venue')}, {span['first']} to {span['last']}."
        )
    ]
    boxes = []
    if passport["ledger"]:
        rows = [
            [
                line["kind"],
                line["reason"],
                f"{line['rows']:,}",
                ", ".join(map(str, line["examples"])),
            ]
            for line in passport["ledger"]
        ]
        caption = f"What happened to rows at import, out of {source['rows']:,} in the file"
        boxes.append(table(["kind", "reason", "rows", "first rows"], rows, caption))
    else:
        parts.append(paragraph("At import no row was dropped, repaired or incomplete."))
    for run in runs:
        unknown = run.test["test/unknown_targets"]
        parts.append(
            paragraph(
                f"{unknown:,} of {run.test['test/targets']:,} test targets{of_run(runs, run)} are "
                "of a class never seen in train; the model misses them and has no loss for them."
            )
        )
        through_others = run.facts.get("users", {}).get("known_through_others", {}).get("test")
        if through_others:
            parts.append(
                paragraph(
                    f"{through_others:,} test targets{of_run(runs, run)} are of a class that only "
                    "users who are not scored have in train: without these others they have no "
                    "loss."
                )
            )
        if faults := run.facts.get("faults"):
            reasons = ", ".join(f"{number:,} times {why}" for why, number in faults.items())
            parts.append(paragraph(f"Clients missing in a mean{of_run(runs, run)}: {reasons}."))
    for run in _distinct(runs, "coverage"):
        rows = [
            [line["step"].strip(), f"{line['clients']:,}", f"{line['checkins']:,}"]
            for line in run.facts["coverage"]
        ]
        caption = f"What each step kept{of_run(_distinct(runs, 'coverage'), run)}"
        boxes.append(table(["step", "clients", "check-ins"], rows, caption))
    for run in _distinct(runs, "unknown_rates"):
        rows = [
            [name, *(f"{100 * rates[split]:.1f} %" for split in ("train", "val", "test"))]
            for name, rates in run.facts["unknown_rates"].items()
        ]
        if rows:
            caption = (
                "Inputs whose value is unknown to the model"
                f"{of_run(_distinct(runs, 'unknown_rates'), run)}"
            )
            boxes.append(table(["input", "train", "val", "test"], rows, caption))
    return Section("data", "Data used", stack(*parts, grid(*boxes)))


def _distinct(runs: Sequence[ReportedRun], name: str) -> list[ReportedRun]:
    """The runs whose fact of that name differs from that of all earlier runs."""
    facts = [run.facts[name] for run in runs]
    return [run for run, fact in zip(runs, facts, strict=True) if facts.index(fact) == run.number]
