"""Differences by hand, seeds averaged, what must not be compared."""

from unittest.mock import ANY

import numpy as np
import pytest

from fedgru import config
from fedgru.console import compared
from fedgru.core.errors import ConfigError, RunError
from fedgru.evaluation import comparison
from fedgru.runs import folder as run_folder


@pytest.fixture
def make_run(tmp_path):
    """Make a run folder that looks evaluated: two clients, ann of 4 targets and bob of 2."""

    def make(
        name, ann, bob, kind="federated", rows=range(6), loss=None, unknown=1, facts=(), **overrides
    ):
        settings = config.load({"name": name} | overrides)
        facts = {"kind": kind, "data": "town", "fingerprint": "f" * 20} | dict(facts)
        run = run_folder.RunFolder.create(tmp_path / "log", settings, facts)
        clients = np.array(["bob", "ann"], object)
        table = {"client_id": clients, "checkins": [10, 20], "targets": [2, 4]}
        table |= {"unknown_targets": [0, unknown], "acc@1": [bob, ann]}
        if loss is not None:
            table["loss"] = loss
        rows = np.array(rows, np.int64)
        run.save_test({"round": 1}, table, {"row": rows})
        return run

    return make


def test_a_difference_by_hand(make_run):
    ours = make_run("ours", ann=0.75, bob=0.5, loss=[1.0, 2.0])
    theirs = make_run("theirs", ann=0.25, bob=1.0, kind="local", loss=[1.5, 1.0])
    found = comparison.compare([ours, theirs], ("acc@1", "loss"))
    assert (found["targets"], found["clients"], found["reference"]) == (6, 2, "ours")
    first, second = found["rows"]
    # ann counts four times, bob twice: (3 + 1) / 6 and (1 + 2) / 6
    assert (first["acc@1"]["mean"], second["acc@1"]["mean"]) == pytest.approx((4 / 6, 3 / 6))
    assert first["acc@1"]["difference"] is None
    gain = second["acc@1"]["difference"]
    assert gain["difference"] == pytest.approx(-1 / 6)
    # only ann drawn: 1/4 - 3/4; only bob: 1 - 1/2; so the interval is all that there can be
    assert gain["interval"] == pytest.approx([-0.5, 0.5])
    assert gain["significant"] is False
    # one of ann's targets is unknown and has no loss: (3 * 2 + 2 * 1) / 5, (3 * 1 + 2 * 1.5) / 5
    assert (first["loss"]["mean"], second["loss"]["mean"]) == pytest.approx((8 / 5, 6 / 5))


def test_losses_of_other_targets_are_not_compared(make_run):
    ours = make_run("ours", ann=0.75, bob=0.5, loss=[1.0, 2.0])
    theirs = make_run("theirs", ann=0.25, bob=1.0, kind="local", loss=[1.5, 1.0], unknown=2)
    _, second = comparison.compare([ours, theirs], ("acc@1", "loss"))["rows"]
    assert second["acc@1"]["difference"]["difference"] == pytest.approx(-1 / 6)
    # (2 * 1 + 2 * 1.5) / 4
    assert (second["loss"]["mean"], second["loss"]["difference"]) == (pytest.approx(5 / 4), None)


def test_seeds_are_one_row(make_run):
    seeds = [make_run("ours", ann=a, bob=0.5, seed=s, threads=1 + s) for s, a in enumerate((0, 1))]
    theirs = make_run("theirs", ann=0.25, bob=0.25, kind="local")
    found = comparison.compare([theirs, *seeds], ("acc@1",))
    row = found["rows"][1]
    assert (row["label"], row["seeds"]) == ("ours", [0, 1])
    # (0 + 1) / 6 and (4 + 1) / 6; their mean is 1/2, that of the other row 1/4
    values = [row["acc@1"][key] for key in ("lowest", "mean", "highest")]
    assert values == pytest.approx([1 / 6, 3 / 6, 5 / 6])
    # the worst of two clients: ann with 0, then bob with 1/2; a quarter in the other run
    assert found["worst_tenth"] == [
        {"label": "local (theirs)", "mean": 0.25, "lowest": 0.25, "highest": 0.25},
        {"label": "ours", "mean": 0.25, "lowest": 0.0, "highest": 0.5},
    ]
    assert compared.as_text(found).splitlines()[-1] == (
        "Mean acc@1 of the worst tenth of clients: local (theirs) 0.2500; ours 0.2500 (0.0000 to "
        "0.5000)."
    )
    # each client gains 1/4: the interval has no width, and zero lies outside
    gain = row["acc@1"]["difference"]
    assert [gain["difference"], *gain["interval"]] == pytest.approx([0.25] * 3)
    assert gain["significant"] is True
    assert found["rows"][0]["label"] == "local (theirs)"
    assert compared.as_markdown(found).splitlines()[3] == (
        "| ours | 2 | 0.5000 (0.1667 to 0.8333) | +0.2500 (+0.2500 to +0.2500, significant) |"
    )


def test_all_rows_stand_against_one_counting_that_validation_chose(make_run):
    def counted(run, best, per_client=None, **accuracies):  # (on validation, on test)
        rows = {
            name: {"val/acc@1/micro": val, "test/acc@1/micro": test}
            for name, (val, test) in accuracies.items()
        }
        report = {"round": 1, "baselines": rows, "best_counting": {"name": best}}
        table = run.client_table()
        if per_client is not None:
            table |= {"counting_acc@1": np.array(per_client), "counting_loss": np.array([2.0, 3.0])}
        run.save_test(report, table, run.predictions())
        return run

    plain = counted(
        make_run("plain", 0.5, 0.5, prior="none"),
        "frequency",
        last=(0.25, 0.75),
        frequency=(0.375, 0.25),
    )
    kernel_rows = {"last": (0.25, 0.75), "frequency": (0.375, 0.25), "running_kernel": (0.5, 0.375)}
    kernel = counted(make_run("kernel", 1.0, 1.0), "running_kernel", **kernel_rows)
    found = comparison.compare([plain, kernel], ("acc@1",))
    # `last` is the best on test; on validation it is the kernel, which one of the two runs has
    assert found["best_counting"] == {
        "name": "running_kernel",
        "mean": 0.375,
        "rows": [
            {"label": "plain", "difference": pytest.approx(0.125), "verdict": ANY},
            {"label": "kernel", "difference": pytest.approx(0.625), "verdict": ANY},
        ],
    }
    lines = compared.as_text(found).splitlines()
    assert lines[-1] == (
        "Best counting, by acc@1 on validation, one for all rows: running kernel, acc@1 0.3750."
    )
    # of runs by an earlier version there is nothing per client
    assert lines[0] == (
        "plain: No verdict: acc@1 is 12.5 points above the best counting baseline (running "
        "kernel), and there is no interval."
    )
    # ann has 4 targets and bob 2: the kernel is right in 1 of 4 and in 1 of 2. The runs gain 1/4
    # and 0, 3/4 and 1/2: the interval goes from one client's gain, drawn twice, to the other's.
    counted(kernel, "running_kernel", [0.5, 0.25], **kernel_rows)
    found = comparison.compare([plain, kernel], ("acc@1",))
    assert compared.as_text(found).splitlines()[:2] == [
        "plain: Does not beat the best counting baseline (running kernel): acc@1 differs by +16.7 "
        "points, 95 % interval +0.000 to +25.0, not significant.",
        "kernel: Beats the best counting baseline (running kernel, its own prior) by 66.7 points "
        "of acc@1, 95 % interval 50.0 to 75.0.",
    ]
    assert compared.as_markdown(found).startswith("plain: Does not beat")
    # by an earlier version
    earlier = [make_run("a", 0.5, 0.5), make_run("b", 0.5, 0.5, kind="local")]
    assert "best_counting" not in comparison.compare(earlier)


def test_fine_tuned_copies_are_a_row(make_run):
    run, other = make_run("ours", 0.5, 0.5), make_run("theirs", 0.5, 0.5, kind="local")
    run.save_test({"round": 1, "fine_tuned": {"epochs": 2}}, run.client_table(), run.predictions())
    table = run.client_table()
    run.save_fine_tuned(table | {"acc@1": np.array([1.0, 1.0])})
    found = comparison.compare([run, other], ("acc@1", "loss"))
    assert [row["label"] for row in found["rows"]] == [
        *("ours", "ours, 2 x fine-tuned", "local (theirs)")
    ]
    assert found["rows"][1]["acc@1"]["difference"]["difference"] == pytest.approx(0.5)
    assert [row["loss"] for row in found["rows"]] == [None] * 3
    assert compared.as_text(found).splitlines()[:5] == [
        "Next check-in: 6 targets of 2 clients; means over seeds (smallest to largest); "
        "differences with paired 95 % intervals over clients",
        "",
        "acc@1" + 19 * " " + "seeds          acc@1 against ours",
        "  ours" + 22 * " " + "1  0.5000",
        "  ours, 2 x fine-tuned      1  1.0000  +0.5000 (+0.5000 to +0.5000, significant)",
    ]


def message(action, *args):
    with pytest.raises((ConfigError, RunError)) as error:
        action(*args)
    return str(error.value)


def test_what_cannot_be_compared(make_run, tmp_path):
    first = make_run("first", 0.5, 0.5)
    other_data = make_run("other", 0.5, 0.5, facts={"data": "city", "fingerprint": "e" * 20})
    assert message(comparison.compare, [first, other_data]) == (
        f"{other_data.path} cannot be compared with {first.path}: data set city (fingerprint "
        "eeeeeeeeeeee), not town (ffffffffffff)."
    )
    venue = make_run("venue", 0.5, 0.5, target="venue")
    assert message(comparison.compare, [first, venue]) == (
        f"{venue.path} cannot be compared with {first.path}: it predicts the venue, not category."
    )
    asked = make_run("asked", 0.5, 0.5, asked_at=True)
    assert message(comparison.compare, [first, asked]) == (
        f"{asked.path} cannot be compared with {first.path}: it predicts the next check-in, its "
        "time known, not the next check-in."
    )
    fewer = make_run("fewer", 0.5, 0.5, rows=range(3, 8))
    assert message(comparison.compare, [first, fewer]) == (
        f"{fewer.path} cannot be compared with {first.path}: other users or splits. It was tested "
        "on 5 check-ins, the first on 6; 3 are the same. Give both the same `users` and "
        "`min_checkins`."
    )
    assert message(comparison.compare, [first, first]) == (
        f"of {first.path}, {first.path} two are of the same settings and the same seed: give one "
        "of them."
    )
    assert message(comparison.compare, [first]) == (
        "nothing to compare: all runs are seeds of the same settings, and none was fine-tuned. "
        "Give a run of other settings, or a baseline (fedgru baseline)."
    )
    assert message(comparison.compare, [first, fewer], ["f1"]) == (
        "unknown metric 'f1'. Accepted: acc@1, acc@5, acc@10, mrr, ndcg, loss."
    )
    (first.path / "predictions.parquet").unlink()
    assert message(comparison.compare, [first, fewer]) == (
        f"{first.path} has no predictions.parquet: score it with: fedgru eval {first.path}"
    )


def test_a_damaged_table_is_said_to_be(make_run):
    first, second = make_run("first", 0.5, 0.5), make_run("second", 0.5, 0.5, kind="last")
    (second.path / "predictions.parquet").write_bytes(b"PAR1 and no more")
    again = f"Make it again with: fedgru eval {second.path}"
    assert message(comparison.compare, [first, second]) == (
        f"{second.path / 'predictions.parquet'} is damaged. {again}"
    )
    (first.path / "clients.csv").write_text("client_id,targets\nann,many\n")
    assert message(first.client_table) == (
        f"{first.path / 'clients.csv'} is damaged. Make it again with: fedgru eval {first.path}"
    )


def test_a_table_for_a_paper_and_one_for_programs(make_run):
    ours = make_run("a_b", ann=0.75, bob=0.5, loss=[1.0, 2.0])
    theirs = make_run("theirs", ann=0.25, bob=1.0, kind="local")
    found = comparison.compare([ours, theirs], ("acc@1", "loss"))
    assert compared.as_latex(found).splitlines() == [
        r"\begin{table}",
        r"\centering",
        r"\begin{tabular}{lllll}",
        r"\toprule",
        r" & acc@1 & difference & loss & difference \\",
        r"\midrule",
        r"a\_b & 0.6667 &  & 1.6000 &  \\",
        # (3 + 1) / 6 and (1 + 2) / 6; without probabilities there is no loss
        r"local (theirs) & 0.5000 & $-$0.1667 ($-$0.5000 to +0.5000) & -- & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\caption{Next check-in: 6 targets of 2 clients; means over seeds (smallest to largest); "
        r"differences with paired 95 \% intervals over clients; * significant; the reference is "
        r"a\_b.}",
        r"\end{table}",
    ]
    first, _, second, last = compared.to_rows(found)
    assert first == {
        **{"label": "a_b", "seeds": 1, "metric": "acc@1"},
        **dict.fromkeys(("mean", "lowest", "highest"), pytest.approx(4 / 6)),
        **{"reference": "a_b", "difference": None, "low": None, "high": None},
        **{"significant": None, "verdict": None},
    }
    assert (second["difference"], second["low"]) == pytest.approx((-1 / 6, -0.5))
    assert second["significant"] is False
    assert (last["metric"], last["mean"], last["difference"]) == ("loss", None, None)


def test_a_significant_difference_has_a_star_in_latex(make_run):
    runs = [make_run("ours", 0.5, 0.5), make_run("theirs", 0.25, 0.25, kind="local")]
    found = comparison.compare(runs, ("acc@1",))
    assert "& $-$0.2500 ($-$0.2500 to $-$0.2500)* " in compared.as_latex(found)
