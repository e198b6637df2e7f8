"""A copy of a run that is fit to be given away: without ids, predictions, rows of one person."""

import json
import shutil
from pathlib import Path
from typing import Any

from fedgru.config.feature_names import parse_features
from fedgru.core.errors import RunError
from fedgru.runs.folder import RunFolder
from fedgru.storage.files import write_text
from fedgru.storage.folders import writing_folder
from fedgru.storage.tables import write_json

NOTE = "SHARED.md"
# file or folder -> what whoever has it learns
TELLS = {
    "config.toml": "every setting, the data set's name among them",
    "run.json": "versions, the data's fingerprint, how many clients and check-ins there were",
    "metrics.csv": "means over the clients, a row per round",
    "times.csv": "how fast the machine was",
    "train": "as metrics.csv, for TensorBoard",
    "val": "as metrics.csv, for TensorBoard",
    "eval": "as test.json, for TensorBoard",
    "test.json": "means over the clients, the worst tenth among them, and intervals",
    "audit.json": "how well a probe recovers a concept, over all clients",
    "attacks.json": "how much attacks found out, means over the clients that were attacked",
    "best.npz": "weights: what the clients' habits have in common; with venues among the features, "
    "which of them people go to, also where a venue has one visitor. Whoever has somebody's "
    "check-ins can find out whether they were trained on",
}
# why not
LEFT_OUT = {
    "predictions.parquet": "each person's visits, with time and target",
    "clients.csv": "ids, and how each person was scored",
    "clients-fine-tuned.csv": "ids, and how each person was scored",
    "faults.csv": "ids of clients that were missing",
    "clients.sqlite": "what each client keeps for itself",
    "run.log": "ids, paths of this machine, tracebacks",
    "last.npz": "best.npz has the weights that count",
    "report.html": "maps and tables of single clients",
    "checkpoints": "weights of other rounds",
}
# of run.json: what only this machine needs, what names somebody, and what undoes pseudonyms
_FACTS_LEFT_OUT = ("data_dir", "error", "members", "resumed", "salt")


def share(run: RunFolder, output: str | Path, overwrite: bool = False) -> dict[str, dict[str, str]]:
    """Write a copy of a run without what tells of single persons, and a page that says so.

    Args:
        run: RunFolder.
        output: path of the new folder.
        overwrite: replace an earlier copy there.

    Returns:
        {"given": {name: what it tells}, "left_out": {name: why}}, as the page `NOTE` says.

    Raises:
        RunError: if the folder is there already and no copy, or cannot be written.
    """
    output = Path(output)
    is_copy = (output / NOTE).is_file()
    if output.exists() and not (overwrite and is_copy):
        advice = "or add `overwrite`" if is_copy else "it is no shared run"
        raise RunError(f"{output} is there already: choose another `output`, {advice}.")
    run.check()
    left_out = {name: why for name, why in LEFT_OUT.items() if (run.path / name).exists()}
    given = {name: what for name, what in TELLS.items() if (run.path / name).exists()}
    if "best.npz" in given and (why := _why_no_weights(run)) is not None:
        left_out["best.npz"] = why
        del given["best.npz"]
    known = {*given, *left_out, *TELLS, *LEFT_OUT, ".lock"}
    for path in sorted(run.path.iterdir()):
        if path.name not in known:
            left_out[path.name] = "not of fedgru, or of a newer one"
    try:
        with writing_folder(output, overwrite) as new:
            for name in given:
                _copy(run, new, name)
            write_text(new / NOTE, _page(run, given, left_out))
    except OSError as error:
        raise RunError(f"{output} cannot be written: {error.strerror or error}.") from None
    return {"given": given, "left_out": left_out}


def _why_no_weights(run: RunFolder) -> str | None:
    """Why the weights tell of single persons; None if they do not."""
    if not run.kind.shares_model:
        return "a model for each person"
    if "user" in parse_features(run.settings().inputs.features):
        return "a row of weights for each person, as `user` is among the features"
    return None


def shareable(facts: dict[str, Any]) -> dict[str, Any]:
    """Return run.json without what names somebody, undoes pseudonyms, or is of this machine."""
    return {key: value for key, value in facts.items() if key not in _FACTS_LEFT_OUT}


def _copy(run: RunFolder, new: Path, name: str) -> None:
    source = run.path / name
    if name == "run.json":
        write_json(new / name, shareable(run.facts()))
    elif name == "test.json":
        write_json(new / name, _without_paths(run.test(), run.path))
    elif name == "audit.json":
        write_json(new / name, _without_paths(run.audit(), run.path))
    elif name == "attacks.json":
        write_json(new / name, _without_paths(run.attacks(), run.path))
    elif source.is_dir():
        shutil.copytree(source, new / name)
    else:
        shutil.copyfile(source, new / name)


def _without_paths(report: dict[str, Any], path: Path) -> dict[str, Any]:
    """A report with the name of the run's folder in place of its path."""
    return report | {"run": path.name} if "run" in report else report


def _page(run: RunFolder, given: dict[str, str], left_out: dict[str, str]) -> str:
    def rows(table: dict[str, str]) -> list[str]:
        return [f"| `{json.dumps(name)[1:-1]}` | {what} |" for name, what in table.items()]

    return "\n".join(
        [
            f"# {run.path.name}, to be shared",
            "A copy by `fedgru runs share`, without what tells of single persons.",
            "",
            *("| here | what it tells |", "| --- | --- |", *rows(given)),
            "",
            *("| left out | why |", "| --- | --- |", *rows(left_out)),
            "",
        ]
    )
