"""What is printed of a task and of an evaluated run."""

from fedgru.config import EMBEDDED


def describe_data(name):
    """Return the words that name a data set."""
    embedded = " (the made-up city that comes with fedgru)" if name == EMBEDDED else ""
    return f"data set {name}{embedded}"


def describe_task(task, facts):
    """Return the text printed before training: data set, coverage, unknown values."""
    lines = [
        describe_data(facts["data"]).capitalize(),
        f"  {'':28}{'clients':>9}{'check-ins':>12}",
    ]
    lines += [f"  {line.step:28}{line.clients:>9,}{line.checkins:>12,}" for line in task.coverage]
    rates = [
        f"{name} {100 * by_split['val']:.1f} % / {100 * by_split['test']:.1f} %"
        for name, by_split in facts["unknown_rates"].items()
        if by_split["val"] or by_split["test"]
    ]
    if rates:
        lines.append(f"  unknown in val / test: {', '.join(rates)}")
    model = task.settings.model
    lines.append(
        f"Model: {model.cell} of {model.hidden_dim} units, {task.num_classes} classes of "
        f"{task.settings.inputs.target}, prior {task.settings.inputs.prior}"
    )
    return "\n".join(lines)


def describe_end(result, settings):
    """Return a line that says why training ended, and which round was best."""
    return (
        f"{result.why}; best is round {result.best.round_num} of {result.last.round_num}, "
        f"{settings.loop.stop_metric} {result.best_value:.4f}"
    )


def describe_report(report):
    """Return the table of a report: the model, cold and warm, beside the baselines."""
    columns = ("acc@1", "acc@5", "acc@10", "mrr", "ndcg", "loss")
    rows = [("model", report), ("model, cold state", report["cold"])]
    rows += [("  revisits", report["revisits"]), ("  first visits", report["first_visits"])]
    rows += [(name.replace("_", " "), r) for name, r in report["baselines"].items()]
    lines = [
        f"Test of {report['run']}, round {report['round']}: "
        f"{report['test/targets']:,} targets of {_count(report['test/clients'], 'client')}, "
        "each scored once",
        f"  {'':20}" + "".join(f"{name:>9}" for name in columns) + f"{'acc@1 macro':>13}",
    ]
    for name, row in rows:
        cells = "".join(_cell(row.get(f"test/{column}/micro"), 9) for column in columns)
        lines.append(f"  {name:20}{cells}{_cell(row.get('test/acc@1/macro'), 13)}")
    lines += _describe_intervals(report)
    if "best_possible" in report:
        lines.append(
            f"Best possible acc@1 in this made-up city: {report['best_possible']:.4f}; "
            f"the model reaches {100 * report['share_of_best']:.1f} % of it."
        )
    if report["test/unknown_targets"]:
        lines.append(
            f"{report['test/unknown_targets']:,} targets were never seen in train: they count as "
            "misses and have no loss."
        )
    return "\n".join(lines)


def _describe_intervals(report):
    """Lines with the bootstrap intervals over clients; one client has none."""
    if report["test/clients"] == 1:
        return ["No interval of acc@1 over clients: there is one client."]
    low, high = report["intervals"]["test/acc@1/micro"]
    lines = [f"95 % interval of acc@1 over clients: {low:.4f} to {high:.4f}"]
    for name, gains in report["gains"].items():
        gain = gains["test/acc@1/micro"]
        low, high = gain["interval"]
        verdict = "not significant" if low <= 0 <= high else "significant"
        lines.append(
            f"  against {name.replace('_', ' ')}: {gain['difference']:+.4f} "
            f"({low:+.4f} to {high:+.4f}, {verdict})"
        )
    return lines


def _count(number, noun):
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _cell(value, width):
    return f"{'-':>{width}}" if value is None or value != value else f"{value:>{width}.4f}"
