"""A report of one run or of several: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedgru.core.errors import RunError
from fedgru.core.version import __version__
from fedgru.report import failures, groups, privacy, results, settings, training
from fedgru.report.page import page, paragraph, stack
from fedgru.report.runs import read_runs
from fedgru.report.words import count, started, trained_on
from fedgru.storage.files import write_whole
from fedgru.storage.folders import mend

if TYPE_CHECKING:
    from fedgru.runs.folder import RunFolder

SECTIONS = (
    settings.chosen_settings,
    settings.data_used,
    training.learning,
    results.beside_counting,
    results.over_clients,
    groups.when_and_for_whom,
    failures.what_goes_wrong,
    failures.leakage,
    training.cost,
)


def make_report(folders: Sequence[RunFolder], data_dir: str | Path, names: bool = False) -> str:
    """Return the report of some runs, as HTML; the same runs give the same bytes.

    Args:
        folders: RunFolders, evaluated. Nothing is written to them.
        data_dir: folder of data sets.
        names: see `read_runs`.

    Raises:
        RunError, DataError: see `read_runs`.
    """
    runs = read_runs(folders, data_dir, names)
    test, labels = runs[0].test, ", ".join(run.label for run in runs)
    about = (
        f"{runs[0].settings.task_name.capitalize()}: the {runs[0].settings.inputs.target}, "
        f"of {count(test['test/clients'], 'client')} in data "
        f"set {runs[0].facts['data']}: {count(test['test/targets'], 'test check-in')}, each scored "
        f"once, in the round chosen on validation."
    )
    head = [paragraph(about)]
    head += [
        paragraph(f"{r.label}: {r.folder.path}, started {started(r)}{trained_on(r)}.") for r in runs
    ]
    is_private = any("privacy" in run.facts for run in runs)
    sections = (*SECTIONS, privacy.privacy) if is_private else SECTIONS
    return page(
        title=f"Report of {labels}",
        head=stack(*head, results.glance(runs)),
        sections=[section(runs) for section in sections],
        footer=f"Made by fedgru {__version__} from {', '.join(str(r.folder.path) for r in runs)}.",
    )


def write_report(
    folders: Sequence[RunFolder],
    data_dir: str | Path,
    output: str | Path,
    names: bool = False,
) -> int:
    """Write the report of some runs, whole or not at all.

    Args:
        folders, data_dir, names: see `make_report`.
        output: path of the file; one that is there is replaced.

    Returns:
        int, its size in bytes.

    Raises:
        RunError: if it cannot be written; and as `make_report`.
    """
    output = Path(output)
    _check_output(output)
    content = make_report(folders, data_dir, names).encode("utf-8")
    mend(output.parent, output.name)
    try:
        write_whole(output, lambda stream: stream.write(content))
    except OSError as error:
        raise RunError(f"cannot write {output}: {error.strerror}.") from None
    return len(content)


def _check_output(output: Path) -> None:
    """Raise a RunError if the path cannot be written, before anything is read or drawn."""
    if output.suffix.lower() not in (".html", ".htm"):
        raise RunError(f"`output` is {output}, expected a name that ends in .html.")
    if output.is_dir():
        raise RunError(f"`output` is {output}, which is a folder.")
    if not output.parent.is_dir():
        raise RunError(f"`output` is {output}, but there is no folder {output.parent}.")
