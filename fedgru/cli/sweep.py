"""`fedgru sweep`: parse values and ranges of settings, search, print."""

import logging
import os
import subprocess
import sys
import threading
from contextlib import contextmanager

import click

from fedgru.cli.logging import log_to_stderr
from fedgru.cli.option_names import with_options
from fedgru.cli.options import (
    LazyOptions,
    config_option,
    data_dir_option,
    json_option,
    log_dir_option,
    print_json,
)
from fedgru.core.cpus import usable_cpus
from fedgru.core.errors import ConfigError


class Values(click.ParamType):
    """Several values of a setting, or a range of numbers; gives a tuple of values or a Range."""

    def __init__(self, setting, plain):
        self.setting = setting
        self.plain = click.types.convert_type(plain)
        self.name = f"{self.plain.name}s"

    def get_metavar(self, param, ctx):
        plain = self.plain
        if isinstance(plain, click.Choice):
            return f"[{'|'.join(plain.choices)}],..."
        takes_range = plain in (click.INT, click.FLOAT)
        return f"{plain.name.upper()},...{'|LOW..HIGH' if takes_range else ''}"

    def convert(self, value, param, ctx):
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
    """The settings' options, each taking several values; --name is the sweep's own."""

    left_out = ("name",)

    def setting_type(self, name, plain):
        return Values(name, plain)


@click.command(
    cls=SweepOptions,
    epilog="Example: fedgru sweep --seq-len 4,8,16,32 --rounds 3",
)
@click.option("--name", help="Of the sweep's folder under log/sweeps/.  [default: what is swept]")
@click.option("--resume", metavar="NAME", help="Go on with that sweep; it knows its settings.")
@click.option(
    "--trials",
    type=click.IntRange(1),
    help="Draw this many points by TPE (Bayesian search) in place of a grid.  [default: 20, if "
    "there is a range]",
)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    help="Train each point with this many seeds; their mean counts.  [default: 1]",
)
@click.option(
    "--prune/--no-prune",
    default=None,
    help="Give up a point that is worse than the median so far.  [default: not in a grid]",
)
@click.option("--processes", default=1, show_default=True, type=click.IntRange(1, 256))
@click.option("--worker", type=click.IntRange(1), hidden=True)  # one of so many, of --processes
@json_option
@config_option
@data_dir_option
@log_dir_option
def sweep(
    name, resume, trials, seeds, prune, processes, worker, as_json, config_file, preset, **others
):
    """Search over settings: train every point, choose on validation, score the best on test.

    Any setting takes several values (--seq-len 4,8,16), each number also a range (--client-lr
    1e-4..1e-1, searched by its logarithm if its high end is 10 times the low one or more). Values
    alone make a grid; a range, or --trials, a Bayesian search. The same command goes on with a
    sweep that was stopped, and may run several times at once.
    """
    from fedgru.console import sweeps as shown
    from fedgru.sweep import plan as sweep_plan
    from fedgru.sweep import sweep as sweeps

    data_dir, log_dir = others.pop("data_dir"), others.pop("log_dir")
    given = {setting: values for setting, values in others.items() if values is not None}
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

    def on_trial(record):
        click.echo(with_options(shown.describe_trial(search.plan, record)), err=True)

    if worker is not None:
        _end_with_parent()
        search.work(data_dir, on_trial, threads=_share(worker))
        return
    click.echo(shown.describe_plan(search.path, search.plan, search.scored), err=True)
    with _workers(search, processes - 1, data_dir, log_dir):
        search.work(
            data_dir,
            on_trial,
            on_wait=lambda n: click.echo(f"waiting for other processes ({n} unfinished)", err=True),
            threads=_share(processes) if processes > 1 else None,
            show_progress=processes == 1 and sys.stderr.isatty(),
        )
    _print_end(search, data_dir, as_json)


def _print_end(search, data_dir, as_json):
    from fedgru.console import sweeps as shown
    from fedgru.sweep import results as sweep_results

    records = search.records()
    if not as_json:
        ranked = sweep_results.ranked(search.plan, records)
        click.echo(with_options(shown.describe_records(search.plan, ranked)))
    best = search.best()
    command = sweep_results.train_command(search.plan, best, data_dir)
    reports = search.score(best, data_dir)
    if as_json:
        found = sweep_results.to_json(search, records, best, reports, command)
        print_json(found)
    else:
        click.echo(shown.describe_best(search.plan, best, reports, command))
        click.echo(f"All trials:  {search.path / 'sweep.csv'}")


def _refuse_beside_resume(asked):
    from fedgru import config

    given = [config.option(name) for name, value in asked.items() if value is not None]
    if given:
        raise click.UsageError(
            f"--resume takes the settings from the sweep's folder: leave out {', '.join(given)}."
        )


def _check_processes(settings, processes):
    """Refuse several processes that would each take all that Ray has."""
    from fedgru.engines import registry

    has_actors = "ray" in registry.engine_of(settings).knows
    if processes > 1 and has_actors and settings.ray.ray_actors is None:
        raise ConfigError(
            f"--processes is {processes}: with --engine {settings.loop.engine} each has actors of "
            "its own. Say how many with --ray-actors."
        )


def _share(processes):
    """Threads for each of several processes."""
    return max(1, usable_cpus() // processes)


@contextmanager
def _workers(search, number, data_dir, log_dir):
    """Let more processes work on the sweep; they end with this one, however it ends."""
    words = [sys.executable, "-m", "fedgru", "sweep", "--resume", search.plan.name]
    words += ["--worker", str(number + 1), "--data-dir", str(data_dir), "--log-dir", str(log_dir)]
    started = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for _ in range(number)
    ]
    try:
        yield
    except BaseException:
        for process in started:
            process.stdin.close()
        raise
    finally:
        for process in started:
            process.wait()
            process.stdin.close()


def _end_with_parent():
    """End this process when the other end of stdin is gone, as after a SIGKILL of the parent."""

    def watch():
        os.read(0, 1)  # nothing is ever written: it returns when the pipe is closed
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
