"""Learning curves, and the cost of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedgru.report import figures
from fedgru.report.page import Section, figure, grid, paragraph, stack, table
from fedgru.report.words import in_bytes, sentence, who, without
from fedgru.training.traffic import sends_whole_table

if TYPE_CHECKING:
    from fedgru.report.runs import ReportedRun


def learning(runs: Sequence[ReportedRun]) -> Section:
    """Loss and acc@1 over the rounds."""
    trained = [run for run in runs if len(run.rounds.get("round", ())) > 1]
    parts = without(runs, trained, "was not trained in rounds and has no learning curve")
    drawn = []
    for name, title, unit in (
        ("loss", "Loss by round", "loss (nats)"),
        ("acc@1", "Accuracy by round", "acc@1"),
    ):
        series, said = [], []
        for run in trained:
            rounds, val = run.rounds["round"], run.rounds[f"val/{name}/micro"]
            best = run.facts.get("best_round")  # none where each client has its own
            train = run.rounds[f"train/{name}/micro"]
            series.append((run.number, run.label, rounds, train, val, best))
            start = f"{who(runs, run)}val {name} is {val[0]:.3f} before training and"
            if best is None:
                said.append(
                    f"{start} {val[-1]:.3f} in round {rounds[-1]:.0f}, the last that a client "
                    "trained for; each kept its own best round"
                )
            else:
                kept = float(val[rounds == best][0])
                said.append(
                    f"{start} {kept:.3f} in round {best} of {rounds[-1]:.0f}{_after(run, best)}, "
                    f"which was kept for the best {_chosen_by(run)} (hollow marker)"
                )
        if series:
            plot = figures.learning_curves(series, unit)
            drawn.append(figure(f"curve-{name[:3]}", title, plot, sentence(runs, said)))
    if drawn:
        parts.append(grid(*drawn))
    return Section("learning", "Learning curves", stack(*parts))


def _chosen_by(run: ReportedRun) -> str:
    """The metric that chose the kept round, in words: `val/loss/micro` is validation loss."""
    _, metric, average = run.settings.loop.stop_metric.split("/")
    return f"validation {metric}{'' if average == 'micro' else f' ({average})'}"


def _cohort(run: ReportedRun) -> str:
    """How many clients a round has, in words."""
    size = run.settings.loop.clients_per_round or run.settings.availability.buffer_size
    if size is None and run.settings.availability.availability != "none":
        return "all that are on"
    return f"{size or len(run.task.training_clients):,}"


def _after(run: ReportedRun, round_num: int) -> str:
    """Words for the simulated hours that the rounds up to one took; empty without such hours."""
    hours = run.rounds.get("train/hours/simulated")
    return "" if hours is None else f", after {hours[round_num]:.4g} simulated hours"


def cost(runs: Sequence[ReportedRun]) -> Section:
    """Seconds per round, and bytes between server and clients."""
    exchanged = [(run, run.traffic) for run in runs if run.traffic is not None]
    trained = [run for run, _ in exchanged]
    parts = without(runs, trained, "was not trained by a server and clients that exchange weights")
    if not trained:
        return Section("cost", "Cost", stack(*parts))
    clocks, sizes, rows, timed, moved = [], [], [], [], []
    for run, sent in exchanged:
        rounds, train_s, val_s = (run.times[n][1:] for n in ("round", "train_s", "val_s"))
        clocks.append((run.number, run.label, rounds, train_s, val_s))
        timed.append(
            f"{who(runs, run)}a round trains for {np.median(train_s):.1f} s (median) and the "
            f"first, which also compiles, for {train_s[0]:.1f} s; {train_s.sum():.0f} s in all"
        )
        training = run.task.training_clients
        down, up = sent.down_bytes[training], sent.up_bytes[training]
        sizes.append((run.number, run.label, down, up))
        moved.append(
            f"{who(runs, run)}the median client receives {in_bytes(np.median(down))} and sends "
            f"{in_bytes(np.median(up))} in a round; the whole model is "
            f"{in_bytes(sent.model_bytes)}"
        )
        cohort = _cohort(run)
        for way, values, total in zip(("down", "up"), (down, up), run.cohort_bytes, strict=True):
            rows.append(
                [run.label, way, *map(in_bytes, (values.min(), np.median(values), values.max()))]
                + [cohort, in_bytes(total), in_bytes(sent.model_bytes)]
            )
    header = ["run", "way", "least", "median", "most", "clients a round", "all rounds", "model"]
    clock = figures.seconds(clocks)
    traffic = figures.transfers(sizes)
    parts += [
        grid(
            figure("seconds", "Seconds of each round", clock, sentence(runs, timed)),
            figure("bytes", "Bytes of each client", traffic, sentence(runs, moved)),
            table(header, rows, "Bytes per client and round, and of all together", width=3),
        ),
        paragraph(
            "Computed from the weights' shapes, not measured on a network: the clients are "
            "simulated. Down: all weights except the table (4 bytes a number), and the client's "
            "own rows of the table, those of values in its training data. Up: the update of the "
            "same numbers, the ids of these rows (4 bytes each), and the sums of examples, loss "
            "and right answers (8 bytes each; three more with a protected concept). Not counted: "
            "framing and compression, and what is set up once or computed from sums: "
            "vocabularies, scaling, shared frequencies, an eraser."
        ),
    ]
    for run, sent in exchanged:
        if "train/hours/simulated" in run.rounds:
            parts.append(
                paragraph(
                    f"{run.label}: its {len(run.rounds['round']) - 1:,} rounds take "
                    f"{run.rounds['train/hours/simulated'][-1]:.4g} hours of simulated time. Bytes "
                    "of all rounds: down to every client that received weights, up from those "
                    "that sent an update in time."
                )
            )
        if sends_whole_table(run.settings):
            private = run.settings.privacy.is_on
            why = "--dp-clip" if private else f"--engine {run.settings.loop.engine}"
            parts.append(
                paragraph(f"{run.label}: with {why} the whole table is sent in both directions.")
            )
        if sent.prior_bytes:
            parts.append(
                paragraph(
                    f"{run.label}: learning the kernel prior before round 1 takes another "
                    f"{in_bytes(sent.prior_bytes)} per client, in both directions together."
                )
            )
    return Section("cost", "Cost", stack(*parts))
