"""What server and clients of a run exchanged: a line per client and round, and the sums."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgru.core.errors import ConfigError
from fedgru.storage.tables import write_csv
from fedgru.training.traffic import Traffic, ledger, sum_of_rounds, traffic_of

if TYPE_CHECKING:
    from fedgru.runs.folder import RunFolder
    from fedgru.task.task import Task


def exchanged(run: RunFolder, task: Task) -> tuple[Traffic, int, int] | None:
    """Return a run's Traffic, and the bytes down and up of all of its rounds.

    None if nothing was exchanged. In simulated time a client that was too late has sent nothing;
    else every client that was drawn counts as if it had sent its update.
    """
    rounds = run.rounds()
    if not rounds or not run.kind.has_engine:
        return None
    traffic = traffic_of(task)
    if "train/hours/simulated" in rounds:
        down, up = (rounds[f"train/{way}_bytes/simulated"][-1] for way in ("down", "up"))
        return traffic, int(down), int(up)
    return traffic, *sum_of_rounds(task, traffic, len(rounds["round"]) - 1)


def write_ledger(run: RunFolder, task: Task, file: str | Path) -> dict[str, Any]:
    """Write a CSV file with what each client received and sent in each round.

    Columns: round, client_id, and the bytes of the parts of `Traffic`.

    Args:
        run: RunFolder.
        task: Task, see `reopen_task`.
        file: path; it is replaced.

    Returns:
        dict: `lines`, and `down_bytes` and `up_bytes` of all lines.

    Raises:
        ConfigError: if nothing was exchanged, or in simulated time, where it depends on who was
            there.
    """
    found = exchanged(run, task)
    if found is None:
        raise ConfigError(f"{run.path} is {run.kind.words}: server and clients exchanged nothing.")
    if task.settings.availability.is_simulated:
        raise ConfigError(
            f"{run.path} has simulated time: its bytes depend on who was there. metrics.csv has "
            "the sums of each round."
        )
    traffic, down, up = found
    lines = [
        {"round": round_num, "client_id": client, **dict(zip(traffic.parts, parts, strict=True))}
        for round_num, client, parts in ledger(task, traffic, len(run.rounds()["round"]) - 1)
    ]
    write_csv(file, lines or [{"round": "", "client_id": "", **dict.fromkeys(traffic.parts, "")}])
    return {"lines": len(lines), "down_bytes": down, "up_bytes": up}
