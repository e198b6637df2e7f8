"""Accuracy against leakage: audited runs as points of one figure."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from fedgru.core.errors import RunError
from fedgru.evaluation.audit import REPRESENTATION
from fedgru.runs.folder import RunFolder

COLOURS = ("#1f5fa8", "#d0661c", "#a01c4e", "#2f7d4f", "#6a4aa0", "#606060")
ORDINARY = "ordinary"


def audited_runs(log_dir: str | Path, concept: str) -> list[RunFolder]:
    """Return the RunFolders of a log folder that were audited for a concept, oldest first.

    Raises:
        RunError: if there is none.
    """
    runs = [RunFolder(file.parent) for file in sorted(Path(log_dir).glob("*/audit.json"))]
    found = [run for run in runs if concept in run.audit().get("concepts", {})]
    if not found:
        raise RunError(
            f"no run in {log_dir}/ was audited for {concept}. Make one with: fedgru audit "
            f"--concept {concept}"
        )
    return found


def collect(runs: Sequence[RunFolder], concept: str) -> list[dict[str, Any]]:
    """Return one row for each run: method, alpha, seed, accuracy, accuracy of the best probe.

    Args:
        runs: list of RunFolder, evaluated and audited for the concept.
        concept: its name.

    Returns:
        list of dicts, in the order of method and alpha.

    Raises:
        RunError: for a run without evaluation or audit (it names the command), a run that is
            agnostic to another concept, or one that was trained on other data than the first.
    """
    rows, first = [], None
    for run in runs:
        facts, test, audit = run.facts(), run.test(), run.audit()
        first = first or (run, facts.get("fingerprint"))
        if facts.get("fingerprint") != first[1]:
            raise RunError(f"{run.path} and {first[0].path} were trained on different data.")
        if "test/acc@1/micro" not in test:
            raise RunError(f"{run.path} has no evaluation. Make it with: fedgru eval {run.path}")
        if concept not in audit.get("concepts", {}):
            raise RunError(
                f"{run.path} has no audit of {concept}. Make it with: fedgru audit {run.path} "
                f"--concept {concept}"
            )
        agnostic = run.settings().agnostic
        if agnostic.agnostic_to not in (None, concept):
            raise RunError(f"{run.path} is agnostic to {agnostic.agnostic_to}, not to {concept}.")
        if agnostic.protected_weight is not None:
            raise RunError(f"{run.path} was trained with `protected_weight`, which is no alpha.")
        found = audit["concepts"][concept]
        ordinary = agnostic.agnostic_to is None
        rows.append(
            {
                "run": str(run.path),
                "method": ORDINARY if ordinary else agnostic.method,
                "alpha": 0.0 if ordinary else agnostic.alpha,
                "seed": run.settings().loop.seed,
                "acc@1": test["test/acc@1/micro"],
                "loss": test["test/loss/micro"],
                "probe": found["worst"][REPRESENTATION],
                "floor": found["floor"],
            }
        )
    return sorted(rows, key=lambda row: (row["method"], row["alpha"], row["seed"]))


def draw(path: Path, rows: list[dict[str, Any]], concept: str) -> None:
    """Draw a point for each method and alpha: the mean over seeds, with every run behind it.

    Args:
        path: of the PNG.
        rows: from `collect`.
        concept: its name, for the axis.
    """
    from fedgru.core.figures import new_figure

    figure, ((axis,),) = new_figure(1, 1, 7, 4.6)
    for method, colour in zip(dict.fromkeys(r["method"] for r in rows), _colours(), strict=False):
        mine = [row for row in rows if row["method"] == method]
        axis.scatter(
            [r["probe"] for r in mine], [r["acc@1"] for r in mine], s=12, c=colour, alpha=0.4
        )
        points = []
        for alpha in dict.fromkeys(row["alpha"] for row in mine):
            at = [row for row in mine if row["alpha"] == alpha]
            points.append((fmean(r["probe"] for r in at), fmean(r["acc@1"] for r in at)))
            label = "" if method == ORDINARY else f"{alpha:g}"
            axis.annotate(label, points[-1], (4, 4), textcoords="offset points", fontsize=8)
        axis.plot(*zip(*points, strict=True), "o-", color=colour, label=method, lw=1.5)
    floor = fmean(row["floor"] for row in rows)
    axis.axvline(floor, color="#808080", ls=":", lw=1, label="always the commonest value")
    axis.set_xlabel(f"accuracy of the best fresh probe for {concept} (less is better)")
    axis.set_ylabel("test acc@1 of the model (more is better)")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _colours() -> Iterator[str]:
    while True:
        yield from COLOURS
