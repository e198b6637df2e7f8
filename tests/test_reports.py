"""fedgru/reports.py: what is printed of a task and of an evaluated run."""

from fedgru import reports


def test_the_embedded_data_set_is_named():
    assert reports.describe_data("embedded") == (
        "data set embedded (the made-up city that comes with fedgru)"
    )
    assert reports.describe_data("nyc") == "data set nyc"


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
        "baselines": {"user_markov": row},
        "intervals": {"test/acc@1/micro": [0.25, 0.75]},
        "gains": {
            "user_markov": {"test/acc@1/micro": {"difference": 0.0, "interval": [-0.125, 0.125]}}
        },
    }
    assert reports.describe_report(report).splitlines() == [
        "Test of log/x, round 3: 1,234 targets of 2 clients, each scored once",
        "                          acc@1    acc@5   acc@10      mrr     ndcg     loss  acc@1 macro",
        "  model                  0.5000        -        -        -        -        -            -",
        "  model, cold state      0.5000        -        -        -        -        -            -",
        "    revisits             0.5000        -        -        -        -        -            -",
        "    first visits              -        -        -        -        -        -            -",
        "  user markov            0.5000        -        -        -        -        -            -",
        "95 % interval of acc@1 over clients: 0.2500 to 0.7500",
        "  against user markov: +0.0000 (-0.1250 to +0.1250, not significant)",
        "1,000 targets were never seen in train: they count as misses and have no loss.",
    ]
