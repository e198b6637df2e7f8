"""`fedgru sweep`: parse values and ranges of settings, search, print."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedgru.cli.logging import log_to_stderr
from fedgru.cli.option_names import with_options
from fedgru.cli.options import (
    LazyOptions,
    NumberOr,
    config_option,
    data_dir_option,
    echo,
    json_option,
    log_dir_option,
    print_json,
)
from fedgru.core.cpus import usable_cpus
from fedgru.core.errors import ConfigError

if TYPE_CHECKING:
    from fedgru.config.settings import Settings
    from fedgru.sweep.sweep import Sweep


class Values(click.ParamType):
    """Several values of a setting, or a range of numbers; gives a tuple of values or a Range."""

    def __init__(self, setting: str, plain: Any) -> None:
        self.setting = setting
        self.plain = click.types.convert_type(plain)
        self.name = f"{self.plain.name}s"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        plain = self.plain
        if isinstance(plain, click.Choice):
            return f"[{'|'.join(plain.choices)}],..."
        if isinstance(plain, NumberOr):
            return f"{plain.get_metavar(param, ctx)},..."
        takes_range = plain in (click.INT, click.FLOAT)
        return f"{plain.name.upper()},...{'|LOW..HIGH' if takes_range else ''}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from fedgru.sweep.search_space import Range, parse_values

        if not isinstance(value, str):
            return value
        low, dots, high = value.partition("..")
        if dots and self.plain in (click.INT, click.FLOAT):
            low, high = (self.plain.convert(end, param, ctx) for end in (low, high))
            if not low < high:
                self.fail(f"{value} is no range: LOW..HIGH, with LOW below HIGH.", param, ctx)
            return Range(low, high)
        texts = parse_values(self.setting, value)
        return tuple(self.plain.convert(text, param, ctx) for text in texts)


class SweepOptions(LazyOptions):
    """The settings' options, each with several values; --name belongs to the sweep."""

    @property
    def left_out(self) -> tuple[str, ...]:
        return ("name",)

    def setting_type(self, name: str, plain: Any) -> Any:
        return Values(name, plain)


@click.command(
    cls=SweepOptions,
    epilog="Example: fedgru sweep --seq-len 4,8,16,32 --rounds 3",
)
@click.option("--name", help="Of the sweep's folder under log/sweeps/.  [default: what is swept]")
@click.option("--resume", metavar="NAME", help="Resume that sweep; it keeps its settings.")
@click.option(
    "--trials",
    type=click.IntRange(1),
    help="Draw this many points by TPE (Bayesian search) in place of a grid.  [default: 20, if "
    "there is a range]",
)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    help="Train each point with this many seeds and compare the means.  [default: 1]",
)
@click.option(
    "--prune/--no-prune",
    default=None,
    help="Stop a point early that is worse than the median so far.  [default: not in a grid]",
)
@click.option(
    "--processes",
    default=1,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Processes that train points side by side.",
)
@click.option("--worker", type=click.IntRange(1), hidden=True)  # one of so many, of --processes
@json_option
@config_option
@data_dir_option
@log_dir_option
def sweep(
    name: str | None,
    resume: str | None,
    trials: int | None,
    seeds: int | None,
    prune: bool | None,
    processes: int,
    worker: int | None,
    as_json: bool,
    config_file: Path | None,
    preset: str | None,
    **others: Any,
) -> None:
    """Search over settings and choose on validation.

    Every point is trained; the best is scored on test.

    Any setting takes several values (--seq-len 4,8,16), each number also a range (--client-lr
    1e-4..1e-1, searched by its logarithm if its high end is 10 times the low one or more). Values
    alone make a grid; a range, or --trials, a Bayesian search. To resume a stopped sweep, run the
    same command again; it can also run several times at once.
    """
    from fedgru.console import sweeps as shown
    from fedgru.sweep import plan as sweep_plan
    from fedgru.sweep import sweep as sweeps

    data_dir, log_dir = others.pop("data_dir"), others.pop("log_dir")
    given: dict[str, Any] = {
        setting: (values,) if isinstance(values, bool) else values
        for setting, values in others.items()
        if values is not None
    }
    if resume is not None:
        asked = {"name": name, "seeds": seeds, "prune": prune, "config": config_file}
        asked |= {"preset": preset} | given
        _refuse_beside_resume(asked)
        search = sweeps.Sweep.reopen(log_dir, resume, trials)
        _check_processes(search.plan.base, processes)
    else:
        axes = {k: v for k, v in given.items() if not isinstance(v, tuple) or len(v) > 1}
        if not axes:
            raise click.UsageError(
                "nothing to sweep over. Give a setting several values, such as --seq-len "
                "4,8,16,32, or a range, such as --client-lr 1e-4..1e-1."
            )
        plan = sweep_plan.make_plan(
            axes,
            {k: v[0] for k, v in given.items() if k not in axes},
            config_file,
            preset,
            name=name,
            seeds=seeds or 1,
            trials=trials,
            prune=prune,
        )
        _check_processes(plan.base, processes)
        search = sweeps.Sweep.create(log_dir, data_dir, plan)
    log_to_stderr(logging.WARNING)

    def on_trial(record: dict[str, Any]) -> None:
        echo(with_options(shown.describe_trial(search.plan, record)), err=True)

    if worker is not None:
        _end_with_parent()
        search.work(data_dir, on_trial, threads=_share(worker))
        return
    echo(shown.describe_plan(search.path, search.plan, search.scored), err=True)
    with _workers(search, processes - 1, data_dir, log_dir):
        search.work(
            data_dir,
            on_trial,
            on_wait=lambda n: echo(f"waiting for other processes ({n} unfinished)", err=True),
            threads=_share(processes) if processes > 1 else None,
            show_progress=processes == 1 and sys.stderr.isatty(),
        )
    _print_end(search, data_dir, as_json)


def _print_end(search: Sweep, data_dir: Path, as_json: bool) -> None:
    from fedgru.console import sweeps as shown
    from fedgru.sweep import results as sweep_results

    records = search.records()
    if not as_json:
        ranked = sweep_results.ranked(search.plan, records)
        echo(with_options(shown.describe_records(search.plan, ranked)))
    best = search.best()
    command = sweep_results.train_command(search.plan, best, data_dir)
    reports = search.score(best, data_dir)
    if as_json:
        found = sweep_results.to_json(search, records, best, reports, command)
        print_json(found)
    else:
        echo(shown.describe_best(search.plan, best, reports, command))
        echo(f"All trials:  {search.path / 'sweep.csv'}")


def _refuse_beside_resume(asked: dict[str, Any]) -> None:
    from fedgru import config

    given = [config.option(name) for name, value in asked.items() if value is not None]
    if given:
        raise click.UsageError(
            f"--resume takes the settings from the sweep's folder: leave out {', '.join(given)}."
        )


def _check_processes(settings: Settings, processes: int) -> None:
    """Refuse several processes if each would take all CPUs of Ray."""
    from fedgru.engines import registry

    has_actors = "ray" in registry.engine_of(settings).knows
    if processes > 1 and has_actors and settings.ray.ray_actors is None:
        raise ConfigError(
            f"--processes is {processes}: with --engine {settings.loop.engine} each has its own "
            "actors. Set their number with --ray-actors."
        )


def _share(processes: int) -> int:
    """Threads for each of several processes."""
    return max(1, usable_cpus() // processes)


@contextmanager
def _workers(search: Sweep, number: int, data_dir: Path, log_dir: Path) -> Iterator[None]:
    """Start more processes that work on the sweep; they end when this one ends."""
    words = [sys.executable, "-m", "fedgru", "sweep", "--resume", search.plan.name]
    words += ["--worker", str(number + 1), "--data-dir", str(data_dir), "--log-dir", str(log_dir)]
    started = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for _ in range(number)
    ]
    pipes = [process.stdin for process in started if process.stdin is not None]
    try:
        yield
    except BaseException:
        for pipe in pipes:
            pipe.close()
        raise
    finally:
        for process in started:
            process.wait()
        for pipe in pipes:
            pipe.close()


def _end_with_parent() -> None:
    """End this process when stdin is closed, as after a SIGKILL of the parent."""

    def watch() -> None:
        os.read(0, 1)  # nothing is written: it returns when the pipe is closed
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
