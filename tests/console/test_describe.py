"""fedgru/console/describe.py: what is printed of a task and of an evaluated run."""

import pytest

from fedgru.algorithms.fed_avg import ServerState
from fedgru.config import Settings
from fedgru.console import describe
from fedgru.runs.kinds import FEDERATED, KINDS
from fedgru.training.loop import TrainResult


def test_the_embedded_data_set_is_named():
    assert describe.describe_data("embedded") == (
        "data set embedded (the made-up city that comes with fedgru)"
    )
    assert describe.describe_data("nyc") == "data set nyc"


def test_what_cannot_be_told_is_a_dash():
    row = {"test/acc@1/micro": 0.5, "test/loss/micro": float("nan")}
    report = row | {
        "run": "log/x",
        "round": 3,
        "test/targets": 1234,
        "test/unknown_targets": 1000,
        "test/clients": 2,
        "cold": row,
        "revisits": row,
        "first_visits": {"test/targets": 0},
        "baselines": {"user_markov": row | {"val/acc@1/micro": 0.75}},
        "best_counting": {"name": "user_markov", "among": 2, "targets": 99, "clients": 2},
        "intervals": {"test/acc@1/micro": [0.25, 0.75]},
        "gains": {
            "user_markov": {"test/acc@1/micro": {"difference": 0.0, "interval": [-0.125, 0.125]}}
        },
        "leakage": {
            "client": {
                "worst": {"representation": 0.875, "logits": 0.5},
                "num_values": 150,
                "floor": 0.25,
                "sampled": {"clients": [100, 1150]},
            },
            "zone": {"not_audited": "why not."},
        },
        "worst_tenth": {"clients": 1, "acc@1": 0.25, "loss": 2.5},
        "audited": "the model that a new client starts with, not the clients' own",
    }
    assert describe.describe_report(report, FEDERATED).splitlines() == [
        "Test of log/x, round 3, next check-in: 1,234 targets of 2 clients, each scored once",
        "Does not beat the best counting baseline (user markov): acc@1 differs by +0.0 points, "
        "95 % interval -12.5 to +12.5, not significant.",
        "  This rests on 1,234 test targets of 2 clients and one seed.",
        "",
        "                          acc@1    acc@5   acc@10      mrr     ndcg     loss  acc@1 macro"
        "      gain",
        "  model                  0.5000        -        -        -        -        -            -",
        "    cold state           0.5000        -        -        -        -        -            -",
        "    revisits             0.5000        -        -        -        -        -            -",
        "    first visits              -        -        -        -        -        -            -",
        "  user markov            0.5000        -        -        -        -        -            -"
        "   +0.0000",
        "  gain: acc@1 of this run less that of the row; * significant, by the 95 % interval over "
        "clients of the paired difference",
        "95 % interval of acc@1 over clients: 0.2500 to 0.7500 (compare two rows by their paired "
        "difference, not by whether their intervals overlap)",
        "Best of 2 ways of counting, by acc@1 on validation (99 targets of 2 clients): user "
        "markov, 0.7500 there",
        "Worst tenth of clients by acc@1 (1 of 2): acc@1 0.2500, loss 2.5000",
        "1,000 targets were never seen in train: the model misses them and has no loss for them.",
        "Accuracy of a newly trained classifier that recovers a concept (trained on val weeks, "
        "tested on test weeks):",
        "  client (150 values): representation 0.875, logits 0.500; commonest 0.250; sampled 100 "
        "of 1,150 clients",
        "  zone: not audited: why not.",
        "  audited: the model that a new client starts with, not the clients' own",
    ]


def test_how_the_best_counting_was_chosen():
    report = {
        "run": "log/x",
        "test/targets": 4,
        "test/unknown_targets": 1000,
        "test/clients": 1,
        "round": 3,
        "gains": {},
        "baselines": {
            "commonest": {"test/unknown_targets": 900},
            "frequency": {"test/unknown_targets": 900},
            "last": {"test/unknown_targets": 7},
            "running_backoff": {"test/unknown_targets": 1000},
            "running_markov": {"val/acc@1/micro": 0.25},
        },
        "best_counting": {"name": "running_markov", "among": 9, "targets": 1234, "clients": 1},
        "popular_nearby": {"radius_km": 0.5, "radii_km": [0.25, 0.5, 1.0]},
    }
    lines = describe.describe_report(report, FEDERATED).splitlines()
    assert lines[-3:] == [
        "Best of 9 ways of counting, by acc@1 on validation (1,234 targets of 1 client): "
        "running markov, 0.2500 there",
        "Popular nearby: within 0.5 km, the best of 0.25, 0.5, 1 on validation; clients would have "
        "to share their visits to each venue",
        "1,000 targets were never seen in train: the model misses them and has no loss for them. "
        "Rows that count after train know some of them: commonest, frequency miss 900; last misses "
        "7.",
    ]
    report["popular_nearby"] = {"absent": "the data set has no coordinates"}
    lines = describe.describe_report(report, FEDERATED).splitlines()
    assert lines[-2] == "Popular nearby is not counted: the data set has no coordinates."


@pytest.mark.parametrize(
    ("kind", "which", "row"),
    [
        ("federated", ", round 3", "model"),
        ("central", ", round 3", "central"),
        ("deployed", ", round 3", "deployed"),
        ("local", ", each client's best of up to 3 rounds", "local"),
        ("markov", "", "markov"),
    ],
)
def test_a_report_says_which_model_was_scored(kind, which, row):
    report = {
        "run": "log/x",
        "round": 3,
        "test/targets": 4,
        "test/unknown_targets": 0,
        "test/clients": 1,
        "baselines": {},
    }
    lines = describe.describe_report(report, KINDS[kind]).splitlines()
    assert (
        lines[0] == f"Test of log/x{which}, next check-in: 4 targets of 1 client, each scored once"
    )
    assert lines[1] == "No verdict: no counting baseline was scored on validation."
    assert lines[5].split()[0] == row


def test_the_audit_names_its_worst_case_and_what_was_left_out():
    def reading(probe, accuracy, **others):
        return {
            "view": "representation",
            "probe": probe,
            "accuracy": accuracy,
            "lowest": accuracy,
            "highest": accuracy,
            "interval": [0.25, 0.75],
            "control": 0.125,
            "converged": True,
        } | others

    report = {
        "run": "log/x",
        "round": 3,
        "concepts": {
            "zone": {
                "num_values": 4,
                "num_fit": 1000,
                "num_test": 2000,
                "num_unknown": 7,
                "floor": 0.3125,
                "sampled": {"validation check-ins": [4000, 9046]},
                "readings": [
                    reading("logistic", 0.5),
                    reading("mlp", 0.625, control=None, converged=False),
                ],
            }
        },
    }
    assert describe.describe_audit(report).splitlines() == [
        "Audit of log/x, round 3: accuracy of fresh probes",
        "",
        "zone: 4 values, fitted on 1,000 check-ins of the val weeks, tested on 2,000 of the test "
        "weeks",
        "  best probe of the representation (mlp): accuracy 62.5 %; always the commonest value: "
        "31.2 %",
        "                                   probe  accuracy       95 % interval          over seeds"
        "  shuffled",
        "  representation                logistic    0.5000    0.2500 to 0.7500    0.5000 to 0.5000"
        "    0.1250",
        "  representation                     mlp    0.6250    0.2500 to 0.7500    0.6250 to 0.6250"
        "         -  not converged: a lower bound",
        "  left out: 7 check-ins of unknown value",
        "  sampled 4,000 of 9,046 validation check-ins",
    ]


def test_samples_of_a_run_that_an_earlier_version_scored():
    found = {"worst": {"logits": 0.5}, "num_values": 150, "floor": 0.25}
    lines = describe.describe_leakage({"client": found | {"left_out": {"clients": 1050}}})
    assert lines.splitlines()[1] == (
        "  client (150 values): logits 0.500; commonest 0.250; left out: 1,050 clients"
    )


def test_the_end_of_a_run_in_which_no_round_counts():
    # such as one that was stopped before the final alpha: there is no best value to show
    state = ServerState({}, {}, 0)
    end = TrainResult(state, ServerState({}, {}, 2), None, "stopped")
    assert describe.describe_end(end, Settings()) == (
        "stopped; best is round 0 of 2, val/loss/micro in no round that counts"
    )
