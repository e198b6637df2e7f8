"""`fedgru agnostic ...`: networks that are right for the right reason. Imports only click first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedgru.cli.options import RunName, click_type, echo, log_dir_option, note, shows_progress

if TYPE_CHECKING:
    from click.decorators import FC

    from fedgru.images.data import ImageData
    from fedgru.images.settings import ImageSettings


def _example(line: str) -> str:
    return f"\b\nExample:\n  {line}"


class ImageCommand(click.Command):
    """Adds --preset and one option per image setting when the command is used."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if not getattr(self, "_complete", False):
            self._complete = True
            self.params = [*self.params, *_settings_options()]
        return super().get_params(ctx)


def _settings_options() -> list[click.Parameter]:
    from fedgru.config import option
    from fedgru.images.settings import PRESETS, ImageSettings

    options: list[click.Parameter] = [
        click.Option(
            ["--preset"],
            type=click.Choice(list(PRESETS)),
            default="small",
            show_default=True,
            help="A named set of settings: small (seconds on one core) or the paper's.",
        )
    ]
    for name, info in ImageSettings.model_fields.items():
        flag = f"{option(name)}/--no-{name}" if info.annotation is bool else option(name)
        default = "" if info.default is None else f"  [default: {info.default}]"
        if info.annotation is bool:
            default = f"  [default: {'yes' if info.default else 'no'}]"
        options.append(
            click.Option(
                [flag, name],
                type=None if info.annotation is bool else click_type(info.annotation),
                default=None,
                metavar="FOLDER" if name in ("target", "context") else None,
                help=f"{info.description}{default}",
            )
        )
    return options


def _name_option(default: str, text: str = "Of the folder in --log-dir.") -> Callable[[FC], FC]:
    return click.option("--name", default=default, show_default=True, help=text)


def _seeds_option(text: str) -> Callable[[FC], FC]:
    return click.option("--seed", default=0, type=click.IntRange(0), show_default=True, help=text)


threads_option = click.option(
    "--threads", type=click.IntRange(1), help="Trainings at a time; one per core if not given."
)


@click.group(epilog=_example("fedgru agnostic sweep --alpha 0 --alpha 0.7 --repeats 1"))
def agnostic() -> None:
    """Train image networks that must not know a context.

    Fresh probes then say whether they do.

    Without folders, digits are drawn on two made-up textures, which match the digit's class in 95 %
    of the training images. With --context FOLDER they are drawn on your photographs; with --target
    and --context the targets are your own too. A folder has one sub-folder per class.
    """


@agnostic.command(
    "cross-domain", cls=ImageCommand, epilog=_example("fedgru agnostic cross-domain --repeats 2")
)
@click.option(
    "--repeats", type=click.IntRange(1), default=1, show_default=True, help="Seeds, from --seed on."
)
@_seeds_option("First seed.")
@_name_option("cross-domain")
@log_dir_option
def cross_domain(
    repeats: int, seed: int, name: str, log_dir: Path, preset: str, **given: Any
) -> None:
    """Test a network of targets on contexts and the reverse.

    One network is trained on each (figure 2 of the paper).

    Each is tested on both hold-outs after every epoch. If a network that never saw a context image
    recognizes contexts well, it has learnt its targets by their contexts.
    """
    from tqdm import tqdm

    from fedgru.console.agnostic import describe_cross_domain
    from fedgru.images import cross_domain as image_cross_domain
    from fedgru.images import figures as image_figures
    from fedgru.images.folders import open_images
    from fedgru.images.sweep import SweepFolder

    settings = _load(given, preset)
    data = _open(settings, seed)
    folder = SweepFolder(Path(log_dir) / name, settings)
    rows = []
    with tqdm(
        total=2 * repeats * settings.epochs,
        unit="epoch",
        disable=not shows_progress(),
        leave=False,
    ) as progress:
        for one in range(seed, seed + repeats):
            if one > seed:
                data = open_images(settings, one)
            rows += image_cross_domain.run(settings, data, one, progress.update)
    folder.write_csv("cross_domain.csv", rows)
    image_figures.draw_cross_domain(folder.path / "cross_domain.png", rows)
    echo(describe_cross_domain(rows, settings.epochs))
    echo(f"Figure and numbers: {folder.path}/cross_domain.png, cross_domain.csv")


@agnostic.command(
    cls=ImageCommand,
    epilog=_example("fedgru agnostic sweep --method reversal --alpha 0 --alpha 0.5 --repeats 1"),
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    default=None,
    metavar="NAME",
    help="How the context is removed: reversal (the paper's), confusion, ensemble, bottleneck, "
    "noise, hsic, decorrelate, leace, or several joined by +. Can be given more than once.  "
    "[default: hsic+decorrelate, which wins the audit; with --target hsic]",
)
@click.option(
    "--alpha",
    "alphas",
    multiple=True,
    type=float,
    help="Can be given more than once.  [default: 0, 0.1 ... 1]",
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Seeds, from --seed on.",
)
@_seeds_option("First seed.")
@threads_option
@_name_option("sweep", "Of the folder in --log-dir; a sweep in it is resumed.")
@log_dir_option
def sweep(
    methods: tuple[str, ...],
    alphas: tuple[float, ...],
    repeats: int,
    seed: int,
    threads: int | None,
    name: str,
    log_dir: Path,
    preset: str,
    **given: Any,
) -> None:
    """Train with alpha from 0 to 1 (figure 3 of the paper).

    Heads, fresh probes and counter-examples are tested at each.

    Every finished training is a line in results.jsonl. Run the same command again to do the
    missing ones.
    """
    from tqdm import tqdm

    from fedgru.console.agnostic import describe_sweep
    from fedgru.images import figures as image_figures
    from fedgru.images import sweep as image_sweep
    from fedgru.images.settings import check_method, default_method

    levels = sorted(set(alphas)) or [i / 10 for i in range(11)]
    image_sweep.check_alphas(levels)
    settings = _load(given, preset)
    methods = tuple(dict.fromkeys(methods)) or (default_method(settings),)
    for method in methods:
        check_method(method, settings)
    data = _open(settings, seed)
    folder = image_sweep.SweepFolder(Path(log_dir) / name, settings)
    seeds = range(seed, seed + repeats)
    with tqdm(unit="training", disable=not shows_progress(), leave=False) as progress:

        def on_done(done: int, total: int) -> None:
            progress.total = total
            progress.n = done
            progress.refresh()

        rows = image_sweep.run(settings, folder, methods, levels, seeds, threads, on_done)
    table = image_sweep.summarise(rows, methods)
    folder.write_csv("results.csv", [row for row in rows if row["method"] != "ceiling"])
    folder.write_csv("summary.csv", table)
    has_counter = "counter" in data.sets
    image_figures.draw_sweep(folder.path / "sweep.png", table, methods, has_counter)
    preferred = {}
    for method in methods:
        best = image_sweep.choose_alpha([line for line in table if line["method"] == method])
        preferred[method] = None if best is None else best["alpha"]
    echo(describe_sweep(table, repeats, preferred))
    echo(f"Figure and numbers: {folder.path}/sweep.png, summary.csv, results.csv")


@agnostic.command(cls=ImageCommand, epilog=_example("fedgru agnostic maps --alpha 0.8"))
@click.option("--alpha", type=float, default=0.8, show_default=True, help="Compared with alpha 0.")
@click.option(
    "--method",
    default=None,
    metavar="NAME",
    help="As for sweep.  [default: hsic+decorrelate, with --target hsic]",
)
@click.option(
    "--examples",
    "per_class",
    type=click.IntRange(1, 12),
    default=3,
    show_default=True,
    help="Of each class.",
)
@_seeds_option("Seed.")
@_name_option("maps")
@log_dir_option
def maps(
    alpha: float,
    method: str | None,
    per_class: int,
    seed: int,
    name: str,
    log_dir: Path,
    preset: str,
    **given: Any,
) -> None:
    """Show where networks respond most (figure 4 of the paper).

    Shown are the hold-out targets whose two maps correlate least.
    """
    from fedgru.agnostic.objective import TradeOff
    from fedgru.console.agnostic import describe_maps
    from fedgru.images import figures as image_figures
    from fedgru.images import maps as image_maps
    from fedgru.images import sweep as image_sweep
    from fedgru.images import training as image_training
    from fedgru.images.settings import check_method, default_method

    image_sweep.check_alphas([alpha])
    settings = _load(given, preset)
    chosen_method = check_method(method or default_method(settings), settings)
    data = _open(settings, seed)
    folder = image_sweep.SweepFolder(Path(log_dir) / name, settings)
    responses = []
    held = data.sets["holdout"]
    for one in (0.0, alpha):
        network = image_training.train(settings, data, chosen_method, TradeOff("alpha", one), seed)
        responses.append(image_maps.activation_maps(network, held.images))
    plain, agnostic_one = responses
    rows, correlations = image_maps.least_alike(held, plain, agnostic_one, per_class)
    size = settings.crop_size or settings.image_size
    shown = [
        {
            "image": image_training.centre_crop(held.images[row : row + 1], size)[0],
            "maps": [maps_of[row] for maps_of in responses],
            "title": f"{data.target_names[held.target[row]]}\nr = {correlations[row]:.2f}",
        }
        for row in rows
    ]
    image_figures.draw_maps(folder.path / "maps.png", shown, (0.0, alpha))
    table = [
        {
            "example": int(row),
            "class": data.target_names[held.target[row]],
            "correlation": correlations[row],
        }
        for row in range(len(held))
    ]
    folder.write_csv("maps.csv", table)
    echo(describe_maps(correlations.tolist()))
    echo(f"Figure and numbers: {folder.path}/maps.png, maps.csv")


@agnostic.command(epilog=_example("fedgru agnostic pareto --concept client"))
@click.argument("runs", nargs=-1, type=RunName())
@click.option("--concept", required=True, help="What the runs were audited for.")
@_name_option("pareto")
@log_dir_option
def pareto(runs: tuple[str, ...], concept: str, name: str, log_dir: Path) -> None:
    """Plot accuracy over what the best probe recovers.

    RUNS are of `fedgru train`, ordinary ones and ones with --agnostic-to CONCEPT and different
    methods, alphas and seeds, each through `fedgru eval` and `fedgru audit`; by default all in the
    log folder that were audited for the concept.
    """
    from fedgru.console.agnostic import describe_pareto
    from fedgru.report import pareto
    from fedgru.runs import folder as run_folders
    from fedgru.runs import listing

    chosen = [listing.open_run(log_dir, run) for run in runs]
    rows = pareto.collect(chosen or pareto.audited_runs(log_dir, concept), concept)
    folder = Path(log_dir) / name
    folder.mkdir(parents=True, exist_ok=True)
    run_folders.write_csv(folder / "pareto.csv", rows)
    pareto.draw(folder / "pareto.png", rows, concept)
    echo(describe_pareto(rows))
    echo(f"Figure and numbers: {folder}/pareto.png, pareto.csv")


def _load(given: dict[str, Any], preset: str) -> ImageSettings:
    from fedgru.images import settings as image_settings

    overrides = {name: value for name, value in given.items() if value is not None}
    return image_settings.load(overrides, preset)


def _open(settings: ImageSettings, seed: int) -> ImageData:
    """Open the data, and print what was skipped."""
    from fedgru.images.folders import open_images

    data = open_images(settings, seed)
    for one in data.notes:
        note(f"Note: {one}")
    return data
