"""Attack a run: what its updates reveal, and who took part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from fedgru.core.errors import ConfigError
from fedgru.privacy.plan import Plan
from fedgru.training.canaries import NUM_CANARIES, attack_training
from fedgru.training.reconstruction import attack_updates
from fedgru.workflows import reopen as reopen_workflow
from fedgru.workflows import train as train_workflow

if TYPE_CHECKING:
    from fedgru.runs.folder import RunFolder
    from fedgru.task.task import Task

ATTACKS = ("reconstruction", "membership")


def attack_run(
    run: RunFolder,
    task: Task,
    attacks: Sequence[str],
    rounds: int | None = None,
    canaries: int = NUM_CANARIES,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Attack a run and write attacks.json.

    Args:
        run: RunFolder, of `fedgru train`.
        task: Task, see `reopen_task`.
        attacks: names out of ATTACKS.
        rounds: of the training with canaries; None for as many as the run had.
        canaries: how many.
        show_progress: whether to draw a bar on stderr.

    Returns:
        dict: `run`, `round`, and by the name of each attack what `attack_updates` and
        `attack_training` return.

    Raises:
        ConfigError: for a run that no server and clients trained.
    """
    if not run.kind.has_engine:
        raise ConfigError(f"{run.path} is {run.kind.words}: there are no updates to attack.")
    with run:
        weights, round_num = reopen_workflow.best_weights(run, task)
        found: dict[str, Any] = {"run": str(run.path), "round": round_num}
        described = run.facts().get("privacy")
        plan = None if described is None else Plan.from_dict(described)
        seed = task.settings.loop.seed
        engine = train_workflow.make_engine(task)
        try:
            if "reconstruction" in attacks:
                clip, noise = (None, 1.0) if plan is None else (plan.clip, plan.noise)
                found["reconstruction"] = attack_updates(engine, weights, clip, noise, seed)
            if "membership" in attacks:
                number = run.facts()["rounds"] if rounds is None else rounds
                with tqdm(
                    total=number,
                    desc="canaries",
                    unit="round",
                    disable=not show_progress,
                    leave=False,
                ) as progress:
                    found["membership"] = attack_training(
                        engine, number, seed, canaries, progress.update
                    )
        finally:
            engine.close()
        run.save_attacks(found)
    return found
