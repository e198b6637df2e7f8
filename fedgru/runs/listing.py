"""The runs in a folder of runs: opened by one of their names, listed, deleted."""

from collections.abc import Sequence
from pathlib import Path

from fedgru.core.errors import RunError
from fedgru.runs import order
from fedgru.runs.folder import RunFolder
from fedgru.storage.folders import mend, removing_folder
from fedgru.storage.locks import Lock, is_locked

_STAMP = len("2031-05-02-184500-")  # the time before a run's `name` in its folder's name


def open_run(log_dir: str | Path, name: str | Path | None = None) -> RunFolder:
    """Open an existing run.

    Args:
        log_dir: folder of all runs.
        name: the name of a folder in it, the setting `name` of a run, the path of a run anywhere,
            or None for the one started last.

    Raises:
        RunError: if there is no such run, if several have that `name`, or if the last run was
            started in the future.
    """
    log_dir = Path(log_dir)
    mend(log_dir)
    if name is None:
        runs = all_runs(log_dir)
        if not runs:
            raise RunError(f"no run in {log_dir}/. Make one with: fedgru train --features big")
        if (start := order.started(runs[0].path)) > order.now():
            raise RunError(
                f"{runs[0].path} was started at {start}, which is in the future. If the clock was "
                "set back, later runs look older than they are: name the run."
            )
        return runs[0]
    name = str(name)
    if Path(name).name != name or name == "..":  # a path: `../x` means what it means in a shell
        if (Path(name) / "run.json").is_file():
            return RunFolder(name)
        raise RunError(f"no run {name}: it is not a folder with a run.json.")
    for path in (Path(name), log_dir / name):
        if (path / "run.json").is_file():
            return RunFolder(path)
    named = [run for run in all_runs(log_dir) if run.path.name[_STAMP:] == name]
    if len(named) > 1:
        raise RunError(
            f"{len(named)} runs have the name {name}: "
            f"{', '.join(run.path.name for run in named)}. Give one of these names."
        )
    if named:
        return named[0]
    raise RunError(
        f"no run {name}: neither {name} nor {log_dir / name} is a folder with a run.json, and no "
        f"run in {log_dir}/ has that `name`."
    )


def all_runs(log_dir: str | Path) -> list[RunFolder]:
    """Return the RunFolders in a folder of runs, started last first."""
    mend(log_dir)
    return [RunFolder(path) for path in order.by_start(log_dir)]


def remove_runs(runs: Sequence[RunFolder], log_dir: str | Path) -> None:
    """Delete runs, whole folders.

    Args:
        runs: RunFolders.
        log_dir: folder of all runs; a run outside it is not deleted.

    Raises:
        RunError: if a run is outside the folder or is being written: then none is deleted; or if
            a folder cannot be deleted.
    """
    for run in runs:
        if run.path.resolve().parent != Path(log_dir).resolve():
            raise RunError(f"{run.path} is not in {log_dir}/: delete it yourself.")
        if is_locked(run.path):
            raise RunError(f"{run.path} is being written: wait until that has ended.")
    for run in runs:
        lock = Lock(run.path)
        try:
            lock.acquire()  # nobody begins to write there now
            removing_folder(run.path)
        except OSError as error:
            raise RunError(f"cannot delete {error.filename}: {error.strerror}.") from None
        finally:
            lock.release()
