"""`fedgru deploy ...`: a real federation. Imports only click at first."""

import click

from fedgru.cli.logging import log_to_stderr
from fedgru.cli.options import (
    LazyOptions,
    columns_option,
    config_option,
    data_dir_option,
    log_dir_option,
    note,
    quiet_option,
    shows_progress,
)

insecure_option = click.option(
    "--insecure",
    is_flag=True,
    help="Plaintext, and nobody says who they are: for a trial on one machine.",
)


@click.group(epilog="Example: fedgru deploy app places --features category,clock,weekday")
def deploy():
    """Train with people who keep their own check-ins, by Flower (docs/deployment.md)."""


class AppOptions(LazyOptions):
    """All settings but those that say what happens to simulated clients, or to runs."""

    left_out = (
        *("client_dropout", "attack", "attackers", "attack_scale", "agnostic_to"),
        *("engine", "threads", "device", "local_loop", "eval_clients", "clients_per_call"),
        *("ray_address", "ray_actors", "ray_cpus", "ray_gpus", "ray_item"),
    )


@deploy.command(
    cls=AppOptions,
    epilog="Example: fedgru deploy app places --features category,clock,weekday",
)
@click.argument("folder", type=click.Path())
@config_option
@click.option(
    "--secure",
    is_flag=True,
    help="Secure aggregation (Flower's SecAgg+): the server learns sums of updates alone. Needs at "
    "least 2 clients in each round, takes 4 messages more.",
)
@click.option(
    "--clip",
    type=click.FloatRange(0, min_open=True),
    help="No client's update is longer than this (L2 norm).",
)
@click.option(
    "--noise",
    type=click.FloatRange(0, min_open=True),
    help="Noise in each round's sum of updates, in units of --clip: the clients add it, each its "
    "share. All then count alike.",
)
@quiet_option
@data_dir_option
def app(folder, config_file, preset, secure, clip, noise, data_dir, **given):
    """Write the app that server and clients run: settings, and tables of values.

    The tables come from a data set of yours (--data): which categories and venues have an id, how
    numbers are scaled, the frequencies and the kernel that the prior begins with. Every client gets
    all of it, so take a data set that is public.
    """
    from fedgru import config
    from fedgru.deploy.app import check_deployable, write_app
    from fedgru.deploy.privacy import DELTA, Privacy, check_privacy, epsilon
    from fedgru.workflows import open as open_workflow

    overrides = {name: value for name, value in given.items() if value is not None}
    settings = config.load(overrides, config_file, preset)
    check_deployable(settings)
    privacy = Privacy(secure, clip, noise)
    check_privacy(privacy, settings)
    task, _ = open_workflow.open_task(settings, data_dir)
    task = open_workflow.learn_prior(task, shows_progress())
    write_app(folder, task, privacy)
    sizes = ", ".join(f"{name} {size:,}" for name, size in task.inputs.sizes.items())
    note(f"ids in the tables: {sizes or 'none'}; {task.num_classes} classes")
    if "user" in task.inputs.sizes:
        note("user is among the --features: the app tells everybody these users' ids.")
    if noise is not None:
        rounds = settings.loop.rounds
        note(
            f"After {rounds} rounds the updates are ({epsilon(rounds, noise):.3g}, {DELTA:g})-"
            "differentially private for each participant, as long as all add their noise. What "
            "clients send of their scores is not covered."
        )
    click.echo(f"{folder}: start the server with: fedgru deploy server {folder} --clients N")


@deploy.command(epilog="Example: fedgru deploy certificate certificates --host localhost")
@click.argument("folder", type=click.Path())
@click.option(
    "--host",
    "hosts",
    multiple=True,
    required=True,
    help="Name or address under which clients reach the server; may be repeated.",
)
@click.option("--days", default=365, show_default=True, type=click.IntRange(1))
def certificate(folder, hosts, days):
    """Make the server's certificate, or renew it.

    The first time this also makes the authority that signs it: ca.crt is for every client, ca.key
    for nobody. Renewing keeps the authority, so clients notice nothing.
    """
    from fedgru.deploy import require_flower
    from fedgru.deploy.keys import CA_CERT, make_certificate

    require_flower()
    ends = make_certificate(folder, hosts, days)
    click.echo(f"{folder}: a certificate for {', '.join(hosts)} until {ends:%Y-%m-%d}.")
    note(f"Give {folder}/{CA_CERT} to every client.")


@deploy.command(epilog="Example: fedgru deploy key ann")
@click.argument("name", type=click.Path())
def key(name):
    """Make a client's pair of keys: NAME, which stays with it, and NAME.pub for the server."""
    from fedgru.deploy import require_flower
    from fedgru.deploy.keys import make_key

    require_flower()
    public = make_key(name)
    click.echo(f"{name} stays on this machine. Send {public} to the server's operator.")


@deploy.command(epilog="Example: fedgru deploy server places --clients 3")
@click.argument("app", type=click.Path())
@click.option(
    "--clients",
    required=True,
    type=click.IntRange(1),
    help="Begin when so many are there. Who comes later joins in the next round.",
)
@click.option(
    "--keys",
    default="keys",
    show_default=True,
    metavar="FOLDER",
    help="Clients' public keys, NAME.pub each; who is not there is not let in.",
)
@click.option("--certificates", default="certificates", show_default=True, metavar="FOLDER")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Listen here; 0.0.0.0 is reached from other machines.",
)
@click.option("--port", default=9092, show_default=True, type=click.IntRange(1, 65535))
@click.option(
    "--timeout",
    "timeout_s",
    default=600.0,
    show_default=True,
    type=click.FloatRange(1.0),
    metavar="SECONDS",
    help="Wait so long for a client's reply; then the round goes on without it.",
)
@click.option(
    "--folder",
    default="fedgru-server",
    show_default=True,
    help="What the server needs to go on after a kill.",
)
@insecure_option
@quiet_option
@log_dir_option
def server(app, clients, keys, certificates, host, port, timeout_s, folder, insecure, log_dir):
    """Train APP with the clients that come; one run, then it ends.

    Stopped or killed, it goes on from its last round when the same command is given again.
    """
    from fedgru.console.describe import describe_report
    from fedgru.deploy.serve import Server

    log_to_stderr()
    if insecure:
        warn("plaintext: whoever can reach the port reads the updates, and can send some.")
        certificates = keys = None
    run = Server(folder, app, host, port, certificates, keys).run(log_dir, clients, timeout_s, note)
    click.echo(describe_report(run.test(), run.kind))
    click.echo(f"Run folder:  {run.path}")


@deploy.command(
    epilog="\b\nExample:\n  fedgru deploy client --data mine.txt --server localhost:9092 \\\n"
    "    --key ann"
)
@click.option("--data", "file", required=True, metavar="FILE", help="Your check-ins.")
@click.option("--server", "address", required=True, metavar="HOST:PORT")
@click.option(
    "--ca",
    default="ca.crt",
    show_default=True,
    metavar="FILE",
    help="The certificate of the server's authority.",
)
@click.option("--key", metavar="FILE", help="Your private key, from `fedgru deploy key`.")
@columns_option(
    "For a table with a header: which column holds what, as in `fedgru data import csv`. Without "
    "it the file has the layout of TSMC2014."
)
@click.option(
    "--categories",
    metavar="coarse|raw|FILE",
    help="As in `fedgru data import`.  [default: coarse, or raw with --column]",
)
@click.option(
    "--skip-bad-rows",
    is_flag=True,
    help="Drop and count bad rows instead of stopping at the first.",
)
@click.option(
    "--folder",
    default="fedgru-client",
    show_default=True,
    help="Where the client keeps its check-ins, as imported, and its log.",
)
@click.option("--record", is_flag=True, help="Keep a copy of every byte that is sent, in sent/.")
@click.option(
    "--patience",
    "patience_s",
    default=90.0,
    show_default=True,
    type=click.FloatRange(0.0),
    metavar="SECONDS",
    help="Try again so long where the server turns you away.",
)
@insecure_option
@quiet_option
def client(
    file, address, ca, key, columns, categories, skip_bad_rows, folder, record, patience_s, insecure
):
    """Take part with the check-ins in a file, which stay here. Stop it with Ctrl-C."""
    from fedgru.deploy import require_flower
    from fedgru.deploy.join import Client, import_own

    require_flower()
    if not insecure and key is None:
        raise click.UsageError("--key is missing. Make one with: fedgru deploy key NAME")
    if insecure:
        warn("plaintext: whoever sits in between reads your updates.")
        ca = key = None
    data_set = import_own(file, folder, columns, categories, skip_bad_rows)
    note(f"{len(data_set.check_ins):,} check-ins imported; they stay in {folder}.")
    for line in data_set.passport["ledger"]:
        note(f"  {line['kind']}: {line['reason']}, {line['rows']:,} rows")
    Client(folder, address, ca, key, record, patience_s).run(note)


def warn(text):
    """Say what is unsafe, also to who asked for quiet."""
    click.echo(f"Warning: --insecure: {text}", err=True)
