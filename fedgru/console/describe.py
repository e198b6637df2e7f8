"""Text about a task and about a run."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from fedgru import config
from fedgru.algorithms.fed_avg import ServerState
from fedgru.algorithms.registry import PLAIN
from fedgru.config import EMBEDDED, TASK_NAMES, Settings
from fedgru.console.compared import describe_gain
from fedgru.console.tables import align, count
from fedgru.core import verdict
from fedgru.core.metrics import METRICS
from fedgru.core.visible import in_one_line
from fedgru.models.candidate_head import CandidateSpec
from fedgru.models.gru import ModelSpec
from fedgru.privacy.covered import lines as lines_of

_PARTS = ("revisits", "first_visits")  # missing in a report that was made from sums

Facts: TypeAlias = Mapping[str, Any]  # parts of run.json, test.json, audit.json


class _CoverageLine(Protocol):
    @property
    def step(self) -> str: ...

    @property
    def clients(self) -> int: ...

    @property
    def checkins(self) -> int: ...


class _TradeOff(Protocol):
    @property
    def kind(self) -> str: ...

    @property
    def value(self) -> float: ...


class DescribedProtection(Protocol):
    """What is shown of a `Protection`."""

    @property
    def trade_off(self) -> _TradeOff: ...

    @property
    def num_values(self) -> int: ...

    @property
    def server_head(self) -> bool: ...


class DescribedTask(Protocol):
    """What is shown of a `Task`."""

    @property
    def settings(self) -> Settings: ...

    @property
    def coverage(self) -> Sequence[_CoverageLine]: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def num_listed(self) -> int: ...

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def protection(self) -> DescribedProtection | None: ...


class TrainingEnd(Protocol):
    """What is shown of a `TrainResult`."""

    @property
    def best(self) -> ServerState: ...

    @property
    def last(self) -> ServerState: ...

    @property
    def best_value(self) -> float | None: ...

    @property
    def why(self) -> str: ...

    @property
    def faults(self) -> Sequence[tuple[int, str, str]]: ...


class DescribedKind(Protocol):
    """What is shown of a `RunKind`."""

    @property
    def row(self) -> str: ...

    @property
    def trains(self) -> bool: ...

    @property
    def shares_model(self) -> bool: ...

    @property
    def counting(self) -> str | None: ...


class DescribedRun(Protocol):
    """What is shown of a `RunFolder`."""

    @property
    def path(self) -> Path: ...

    @property
    def kind(self) -> DescribedKind: ...

    def facts(self) -> Facts: ...

    def overview(self) -> Facts: ...

    def settings(self) -> Settings: ...

    def test(self) -> Facts | None: ...


def describe_data(name: str) -> str:
    """Return the name of a data set in words."""
    embedded = " (the made-up city that comes with fedgru)" if name == EMBEDDED else ""
    return f"data set {name}{embedded}"


def describe_origin(path: Path, settings: Settings) -> str:
    """Return what a run was trained on and by: the data set, and what is not fedgru's default."""
    words = [str(path), describe_data(settings.data.data)]
    if settings.algorithm.algorithm != PLAIN:
        words.append(f"algorithm {settings.algorithm.algorithm}")
    if settings.model.model is not None:
        words.append(f"model {settings.model.model}")
    return ", ".join(words)


def describe_task(task: DescribedTask, facts: Facts, counting: bool = False) -> str:
    """Return the text printed before training: data set, coverage, unknown values, model.

    Args:
        task: Task.
        facts: from `open_task`.
        counting: whether the run is a counting baseline, which has no model.
    """
    lines = [
        describe_data(facts["data"]).capitalize(),
        f"Task: {task.settings.task_name}",
        f"  {'':28}{'clients':>9}{'check-ins':>12}",
    ]
    lines += [f"  {line.step:28}{line.clients:>9,}{line.checkins:>12,}" for line in task.coverage]
    rates = [
        f"{name} {100 * by_split['val']:.1f} % / {100 * by_split['test']:.1f} %"
        for name, by_split in facts["unknown_rates"].items()
        if by_split["val"] or by_split["test"]
    ]
    if "users" in facts:
        lines += describe_known_through_others(facts["users"], task.settings.inputs.target)
    if counting:
        return "\n".join(lines)
    if rates:
        lines.append(f"  unknown in val / test: {', '.join(rates)}")
    classes = f"{task.num_listed} classes of {task.settings.inputs.target}"
    if number := task.num_classes - task.num_listed:
        classes += f" and {number} for a client's own that train does not have"
    lines.append(
        f"Model: {task.spec.cell} of {task.spec.hidden_dim} units, {_head(task)}{classes}, "
        f"prior {task.settings.inputs.prior}"
    )
    if task.settings.algorithm.algorithm != PLAIN:
        lines.append(f"Algorithm: {task.settings.algorithm.algorithm}")
    if task.settings.privacy.is_on:
        open_lines = [line.what for line in lines_of(task.settings) if not line.is_covered]
        lines.append(
            "Differential privacy for each client; it does not cover: " + "; ".join(open_lines)
        )
    if task.protection is not None:
        lines.append(_describe_protection(task, task.protection))
    return "\n".join(lines)


def _head(task: DescribedTask) -> str:
    """Return the head, and why it is not the default; empty for a model of one's own."""
    if isinstance(task.spec, CandidateSpec):
        return "head candidates, "
    if task.settings.model.model is not None:
        return ""
    why = config.why_dense(task.settings)
    return "head dense, " if why is None else f"head dense (since {why}), "


def describe_users(users: Facts) -> str:
    """Return who trained and who was scored.

    >>> describe_users({"trained": 1083, "scored": 100})
    'trained on 1,083 users, scored on 100'
    """
    return f"trained on {users['trained']:,} users, scored on {users['scored']:,}"


def describe_known_through_others(users: Facts, target: str = "class") -> list[str]:
    """Return a line on targets that are of a known class because others train; none if none are."""
    found = users["known_through_others"]
    if not any(found.values()):
        return []
    return [
        f"  {target} known only because others train too: {found['val']:,} val / "
        f"{found['test']:,} test targets, which have no loss without these others"
    ]


def _describe_protection(task: DescribedTask, protection: DescribedProtection) -> str:
    agnostic = task.settings.agnostic
    strength = f"{protection.trade_off.kind} {protection.trade_off.value:g}"
    line = (
        f"Agnostic to {agnostic.agnostic_to} ({protection.num_values} values): {agnostic.method}, "
        f"{strength} ({agnostic.alpha_schedule})"
    )
    if protection.server_head:
        line += (
            "\n  Simulation: the server trains the heads on the states of all clients, which it "
            "would not have in a deployment."
        )
    return line


def describe_end(result: TrainingEnd, settings: Settings) -> str:
    """Return a line with the reason why training ended, and the best round."""
    value = "in no round that counts" if result.best_value is None else f"{result.best_value:.4f}"
    simulated = result.last.simulated
    after = "" if simulated is None else f" after {simulated.hours:.4g} simulated hours"
    if result.last.private is not None:
        return (
            f"{result.why}{after}; the last round is kept: {settings.loop.stop_metric} {value}, "
            f"epsilon {result.last.private.epsilon:.3f}{_describe_faults(result.faults)}"
        )
    return (
        f"{result.why}{after}; best is round {result.best.round_num} of {result.last.round_num}, "
        f"{settings.loop.stop_metric} {value}{_describe_faults(result.faults)}"
    )


def describe_kept(kept: Facts) -> str:
    """Return what the kept round adds to the prior on validation, in one or two sentences.

    Args:
        kept: `kept` of run.json.
    """
    key, prior, number = kept["stop_metric"], kept["prior"], kept["round"]
    model, alone = kept["model"], kept["alone"]
    name = key.split("/")[1]
    gain = model[key] - alone[key]
    gain = gain if METRICS[name].higher_is_better else -gain
    if gain <= 0:
        return (
            f"On validation no round is better than the {prior} prior alone: {key} is "
            f"{model[key]:.4f} in round {number}, {alone[key]:.4f} without the network. The "
            "network adds nothing."
        )
    line = (
        f"On validation round {number}, which is kept, is better than the {prior} prior alone: "
        f"{key} is {model[key]:.4f}, {alone[key]:.4f} without the network."
    )
    acc, loss = "val/acc@1/micro", "val/loss/micro"
    if name != "acc@1" and model[acc] < alone[acc]:
        line += f" Its acc@1 is lower, {model[acc]:.4f} against {alone[acc]:.4f}."
    if name != "loss" and model[loss] > alone[loss]:
        line += f" Its loss is higher, {model[loss]:.4f} against {alone[loss]:.4f}."
    return line


def _describe_faults(faults: Iterable[tuple[int, str, str]]) -> str:
    """Return how often clients were missing in the mean, and why; empty if never."""
    counts = Counter(why for _, _, why in faults)
    reasons = ", ".join(f"{number:,} times {why}" for why, number in counts.items())
    return f"; clients missing in the mean: {reasons} (faults.csv)" if reasons else ""


def describe_done(facts: Facts, path: Path) -> str:
    """Return a line about the end of a run, from its run.json."""
    return (
        f"{path} is done: {facts.get('why')}, best is round {facts.get('best_round')} of "
        f"{facts.get('rounds')}."
    )


def describe_report(report: Facts, kind: DescribedKind) -> str:
    """Return the table of a report: the model, cold and warm, and the baselines.

    Args:
        report: test.json of a run.
        kind: the run's RunKind.
    """
    columns = ("acc@1", "acc@5", "acc@10", "mrr", "ndcg", "loss")
    rows = [(kind.row, report)]
    if "cold" in report:
        rows.append(("  cold state", report["cold"]))
    if "fine_tuned" in report:
        rows.append(("  after fine-tuning", report["fine_tuned"]))
    rows += [(f"  {n.replace('_', ' ')}", report[n]) for n in _PARTS if n in report]
    lines = [
        f"Test of {in_one_line(str(report['run']))}{_which(report, kind)}"
        f"{', ' + describe_users(report['users']) if 'users' in report else ''}, "
        f"{report.get('task', TASK_NAMES[False])}: "
        f"{report['test/targets']:,} targets of {count(report['test/clients'], 'client')}, "
        "each scored once",
        *_describe_verdict(report, kind),
        f"  {'':20}" + "".join(f"{name:>9}" for name in columns) + f"{'acc@1 macro':>13}",
    ]

    def cells(name: str, row: Facts) -> str:
        values = "".join(_cell(row.get(f"test/{column}/micro"), 9) for column in columns)
        return f"  {name:20}{values}{_cell(row.get('test/acc@1/macro'), 13)}"

    lines += [cells(name, row) for name, row in rows]
    if report.get("gains"):
        lines[-len(rows) - 1] += f"{'gain':>10}"
    for name, row in report["baselines"].items():
        lines.append(cells(name.replace("_", " "), row) + _gain_over(report, name))
    lines += _describe_intervals(report)
    lines += _describe_counting(report)
    if "worst_tenth" in report and report["test/clients"] > 1:
        lines.append(_describe_worst(report))
    if "best_possible" in report:
        lines.append(
            f"Best possible acc@1 in this made-up city: {report['best_possible']:.4f}; "
            f"the model reaches {100 * report['share_of_best']:.1f} % of it."
        )
    if "backdoor" in report:
        lines.append(_describe_backdoor(report))
    if report["test/unknown_targets"]:
        lines.append(
            f"{report['test/unknown_targets']:,} targets were never seen in train: the model "
            f"misses them and has no loss for them.{_known_to_counting(report)}"
        )
    if "users" in report:
        lines += [line.strip() for line in describe_known_through_others(report["users"])]
    if "leakage" in report:
        lines.append(describe_leakage(report["leakage"]))
    if "audited" in report:
        lines.append(f"  audited: {report['audited']}")
    return "\n".join(lines)


def _describe_verdict(report: Facts, kind: DescribedKind) -> list[str]:
    """Return the lines of the verdict; the last one ends the paragraph."""
    found = verdict.of_test(report, kind.counting, report.get("prior"))
    return [found.headline, *(f"  {line}" for line in found.more), ""]


def _gain_over(report: Facts, baseline: str) -> str:
    """Return the cell of a baseline in the column `gain`; empty without one."""
    gains = report.get("gains", {}).get(baseline)
    if gains is None:
        return ""
    gain = gains["test/acc@1/micro"]
    low, high = gain["interval"]
    shown = report["test/clients"] > 1 and not low <= 0 <= high
    return f"{gain['difference']:>+10.4f}{'*' if shown else ''}"


def _known_to_counting(report: Facts) -> str:
    """Return a sentence on the rows that count further and so know other targets; maybe empty."""
    of_number: dict[int, list[str]] = {}
    for name, row in report["baselines"].items():
        number = row.get("test/unknown_targets", report["test/unknown_targets"])
        if number != report["test/unknown_targets"]:
            of_number.setdefault(number, []).append(name.replace("_", " "))
    rows = [
        f"{', '.join(names)} {'misses' if len(names) == 1 else 'miss'} {number:,}"
        for number, names in of_number.items()
    ]
    return f" Rows that count after train know some of them: {'; '.join(rows)}." if rows else ""


def _describe_counting(report: Facts) -> list[str]:
    """Return lines on the counting baseline that is best on validation, and on popular nearby."""
    lines = []
    if best := report.get("best_counting"):
        name = best["name"]
        lines.append(
            f"Best of {best['among']} ways of counting, by acc@1 on validation "
            f"({best['targets']:,} targets of {count(best['clients'], 'client')}): "
            f"{name.replace('_', ' ')}, {report['baselines'][name]['val/acc@1/micro']:.4f} there"
        )
    nearby = report.get("popular_nearby", {})
    if "absent" in nearby:
        lines.append(f"Popular nearby is not counted: {nearby['absent']}.")
    elif nearby:
        tried = ", ".join(f"{km:g}" for km in nearby["radii_km"])
        lines.append(
            f"Popular nearby: within {nearby['radius_km']:g} km, the best of {tried} on "
            "validation; clients would have to share their visits to each venue"
        )
    return lines


def _describe_backdoor(report: Facts) -> str:
    """Return a line with the success rate of the backdoor that liars planted."""
    planted, number = report["backdoor"], report["test/backdoor_targets"]
    rate = report["test/backdoor/micro"]
    where = f"test targets of honest clients after {planted['trigger']}"
    if rate is None:
        return f"Backdoor: there are no {where}, so its success rate is not known."
    return (
        f"Backdoor: {planted['target']} is predicted for {100 * rate:.1f} % of {number:,} {where}; "
        f"none of them is {planted['target']}."
    )


def _describe_worst(report: Facts) -> str:
    worst = report["worst_tenth"]
    loss = "" if worst["loss"] is None else f", loss {worst['loss']:.4f}"
    return (
        f"Worst tenth of clients by acc@1 ({worst['clients']:,} of {report['test/clients']:,}): "
        f"acc@1 {worst['acc@1']:.4f}{loss}"
    )


def describe_leakage(leakage: Mapping[str, Facts]) -> str:
    """Return the results of the quick audit of every run, a line per concept, with a heading."""
    lines = [
        "Accuracy of a newly trained classifier that recovers a concept (trained on val weeks, "
        "tested on test weeks):"
    ]
    for name, found in leakage.items():
        if "not_audited" in found:
            lines.append(f"  {name}: not audited: {found['not_audited']}")
            continue
        views = ", ".join(f"{view} {value:.3f}" for view, value in found["worst"].items())
        sampled = "".join(f"; {line}" for line in _describe_sampled(found))
        lines.append(
            f"  {name} ({found['num_values']} values): {views}; commonest {found['floor']:.3f}"
            f"{sampled}"
        )
    return "\n".join(lines)


def _describe_sampled(found: Facts) -> list[str]:
    """Lines such as "sampled 4,000 of 9,046 validation check-ins"."""
    if "left_out" in found:  # by an earlier fedgru, which did not write the whole numbers
        return [f"left out: {number:,} {what}" for what, number in found["left_out"].items()]
    sampled = found["sampled"].items()
    return [f"sampled {taken:,} of {whole:,} {what}" for what, (taken, whole) in sampled]


def describe_attacks(report: Facts) -> str:
    """Return the tables of `fedgru audit --attack`."""
    lines = [f"Attacks on {report['run']}, round {report['round']}"]
    if "reconstruction" in report:
        found = report["reconstruction"]
        names = list(found["chance"])
        lines += [
            "",
            f"Reconstruction of {found['clients']} clients' values from their updates (clip "
            f"{found['clip']:.4g}, noise {found['noise']:.4g} times that), precision / recall:",
        ]
        rows = [["", *names]]
        rows.append(["share of all values", *(f"{found['chance'][n]:.3f}" for n in names)])
        for view, by_what in found["views"].items():
            cells = [by_what.get(name) for name in names]
            pairs = [
                "-" if c is None else f"{c['precision']:.3f} / {c['recall']:.3f}" for c in cells
            ]
            rows.append([view, *pairs])
        lines.append(align(rows))
    if "membership" in report:
        found = report["membership"]
        most = found["at_most"]
        states = "no differential privacy" if most is None else f"the accountant states {most:.3f}"
        lines += [
            "",
            f"Membership of {found['canaries']:,} canaries in {found['rounds']} rounds: "
            f"{found['correct']} of {found['guesses']} guesses are right, so epsilon is at least "
            f"{found['at_least']:.3f} (95 % confidence); {states}.",
        ]
        if found["interval"] is not None:
            low, high = found["interval"]
            lines.append(
                f"  estimate from the scores, if they are Gaussian: {found['estimate']:.3f} "
                f"({low:.3f} to {high:.3f})"
            )
    return "\n".join(lines)


def describe_audit(report: Facts) -> str:
    """Return the tables of an audit, one per concept: view, probe, accuracy, interval, control."""
    lines = [f"Audit of {report['run']}, round {report['round']}: accuracy of fresh probes"]
    if "audited" in report:
        lines.append(f"  audited: {report['audited']}")
    for name, found in report["concepts"].items():
        worst = {r["view"]: r for r in sorted(found["readings"], key=lambda r: r["accuracy"])}
        headline = worst.get("representation")
        lines += [
            "",
            f"{name}: {found['num_values']} values, fitted on {found['num_fit']:,} check-ins of "
            f"the val weeks, tested on {found['num_test']:,} of the test weeks",
        ]
        if headline:
            lines.append(
                f"  best probe of the representation ({headline['probe']}): accuracy "
                f"{100 * headline['accuracy']:.1f} %; always the commonest value: "
                f"{100 * found['floor']:.1f} %"
            )
        lines.append(
            f"  {'':26}{'probe':>12}{'accuracy':>10}{'95 % interval':>20}{'over seeds':>20}"
            f"{'shuffled':>10}"
        )
        for r in found["readings"]:
            low, high = r["interval"]
            control = "-" if r["control"] is None else f"{r['control']:.4f}"
            unfinished = "" if r["converged"] else "  not converged: a lower bound"
            interval, spread = (
                f"{low:.4f} to {high:.4f}",
                f"{r['lowest']:.4f} to {r['highest']:.4f}",
            )
            lines.append(
                f"  {r['view']:26}{r['probe']:>12}{r['accuracy']:>10.4f}{interval:>20}"
                f"{spread:>20}{control:>10}{unfinished}"
            )
        if found["num_unknown"]:
            lines.append(f"  left out: {found['num_unknown']:,} check-ins of unknown value")
        lines += [f"  {line}" for line in _describe_sampled(found)]
    return "\n".join(lines)


def describe_runs(overviews: Iterable[Facts]) -> str:
    """Return the table of `fedgru runs list`, from the runs' overviews."""
    columns = ("run", "kind", "data", "status", "seed", "rounds", "best_round")
    head = [*columns[:-1], "best", "acc@1", "loss"]
    rows, overviews = [head], list(overviews)
    for shown in overviews:
        cells = ["-" if shown[column] is None else str(shown[column]) for column in columns]
        rows.append(cells + [_cell(shown[f"test/{name}/micro"], 0) for name in ("acc@1", "loss")])
    if any(shown["task"] == TASK_NAMES[True] for shown in overviews):
        head.append("task")
        for cells, shown in zip(rows[1:], overviews, strict=True):
            cells.append(shown["task"] or "-")
    if any(shown["users"] for shown in overviews):
        head.append("users")
        for cells, shown in zip(rows[1:], overviews, strict=True):
            cells.append(describe_users(shown["users"]) if shown["users"] else "-")
    return align(rows)


def describe_run(run: DescribedRun) -> str:
    """Return the text of `fedgru runs show`: how the run ended, its settings, its test."""
    facts, shown = run.facts(), run.overview()
    lines = [
        f"{run.path}: {shown['kind']}, {describe_data(shown['data'])}, {shown['status']}",
        f"  started {facts.get('started')}, fedgru {facts.get('versions', {}).get('fedgru')}, data "
        f"fingerprint {str(facts.get('fingerprint'))[:12]}",
    ]
    if "users" in facts:
        lines.append(f"  {describe_users(facts['users'])}")
    if "error" in facts:
        lines.append(f"  error: {facts['error']}")
    if "best_round" in facts:
        lines.append(f"  {facts['why']}; best is round {facts['best_round']} of {facts['rounds']}")
    given = config.differences(run.settings())
    lines.append("Settings other than the defaults:" if given else "All settings are the defaults.")
    lines += [f"  `{name}` {value}" for name, value in given.items()]
    test = run.test()
    if test:
        lines.append(describe_report(test, run.kind))
    else:
        lines.append(f"Not evaluated. Evaluate it with: fedgru eval {run.path}")
    return "\n".join(lines)


def _describe_intervals(report: Facts) -> list[str]:
    """Return lines with the bootstrap intervals over clients; one client has none."""
    if report["test/clients"] == 1:
        return ["No interval of acc@1 over clients: there is one client."]
    low, high = report["intervals"]["test/acc@1/micro"]
    lines = []
    if report.get("gains"):
        lines = [
            "  gain: acc@1 of this run less that of the row; * significant, by the 95 % interval "
            "over clients of the paired difference"
        ]
    lines.append(
        f"95 % interval of acc@1 over clients: {low:.4f} to {high:.4f} (compare two rows by their "
        "paired difference, not by whether their intervals overlap)"
    )
    if "fine_tuned" in report:
        gain = describe_gain(report["fine_tuned"]["gains"]["test/acc@1/micro"])
        epochs = count(report["fine_tuned"]["epochs"], "local epoch")
        lines.append(f"Fine-tuning each client's copy for {epochs} changes acc@1 by {gain}")
    return lines


def _which(report: Facts, kind: DescribedKind) -> str:
    """Return which model of a run was scored; empty for a counting baseline, without rounds."""
    if not kind.trains:
        return ""
    if kind.shares_model:
        hours = report.get("simulated_hours")
        after = "" if hours is None else f" after {hours:.4g} simulated hours"
        if "privacy" in report:
            after += f", epsilon {report['privacy']['epsilon']:.3f}"
        return f", round {report['round']}{after}"
    return f", each client's best of up to {count(report['round'], 'round')}"


def _cell(value: float | None, width: int) -> str:
    return f"{'-':>{width}}" if value is None or value != value else f"{value:>{width}.4f}"
