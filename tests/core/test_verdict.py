"""Sentences of a verdict, word for word, for cases by hand."""

import pytest

from fedgru.core.verdict import Gain, Standing, judge, of_test

RESTS = "This rests on 11,308 test targets of 100 clients and one seed."
BEST = "the best counting baseline (running kernel)"


def gain(difference, low=None, high=None):
    return Gain(difference, None if low is None else (low, high))


@pytest.mark.parametrize(
    "accuracy, loss, outcome, headline, on_loss",
    [
        (
            gain(0.0094, 0.003, 0.0141),
            gain(-0.0518, -0.0624, -0.0418),
            "beats",
            f"Beats {BEST} by 0.9 points of acc@1, 95 % interval 0.3 to 1.4.",
            "The loss is 0.052 lower (0.042 to 0.062; lower is better).",
        ),
        (
            gain(0.0094, 0.003, 0.0141),
            gain(0.02, 0.01, 0.03),
            "beats",
            f"Beats {BEST} by 0.9 points of acc@1, 95 % interval 0.3 to 1.4.",
            "The loss is 0.020 higher (0.010 to 0.030; lower is better): the probabilities are "
            "worse.",
        ),
        (
            gain(-0.012, -0.02, -0.004),
            gain(0.02, 0.01, 0.03),
            "worse",
            f"Is worse than {BEST} by 1.2 points of acc@1, 95 % interval 0.4 to 2.0.",
            "The loss is 0.020 higher (0.010 to 0.030; lower is better).",
        ),
        (
            gain(-0.012, -0.02, -0.004),
            gain(-0.02, -0.03, -0.01),
            "worse",
            f"Is worse than {BEST} by 1.2 points of acc@1, 95 % interval 0.4 to 2.0.",
            "The loss is 0.020 lower (0.010 to 0.030; lower is better): the probabilities are "
            "better, the first guess is not.",
        ),
        (
            gain(0.002, -0.004, 0.008),
            gain(-0.03, -0.04, -0.02),
            "not significant",
            f"Does not beat {BEST}: acc@1 differs by +0.2 points, 95 % interval -0.4 to +0.8, not "
            "significant.",
            "The loss is 0.030 lower (0.020 to 0.040; lower is better): the probabilities are "
            "better, the first guess is not.",
        ),
        (
            gain(-0.002, -0.008, 0.0),  # an end at zero is not significant
            gain(0.001, -0.002, 0.004),
            "not significant",
            f"Does not beat {BEST}: acc@1 differs by -0.2 points, 95 % interval -0.8 to +0.000, "
            "not significant.",
            "The loss differs by +0.001 (-0.002 to +0.004), not significant (lower is better).",
        ),
        (
            gain(0.007, -0.0002, 0.013),
            None,
            "not significant",
            f"Does not beat {BEST}: acc@1 differs by +0.7 points, 95 % interval -0.020 to +1.3, "
            "not significant.",
            None,
        ),
        (
            gain(0.25),
            gain(-0.5),
            "no interval",
            f"No verdict: acc@1 is 25.0 points above {BEST}, and there is no interval.",
            "The loss is 0.500 lower (lower is better).",
        ),
        (
            gain(-0.25),
            None,
            "no interval",
            f"No verdict: acc@1 is 25.0 points below {BEST}, and there is no interval.",
            None,
        ),
        (
            gain(0.0),
            None,
            "no interval",
            f"No verdict: acc@1 equals that of {BEST}, and there is no interval.",
            None,
        ),
        (
            gain(0.02, 0.01, 0.03),
            None,  # the baseline ranks, and has no loss
            "beats",
            f"Beats {BEST} by 2.0 points of acc@1, 95 % interval 1.0 to 3.0.",
            None,
        ),
    ],
)
def test_one_result(accuracy, loss, outcome, headline, on_loss):
    found = judge(Standing("running_kernel", accuracy, loss, targets=11308, clients=100))
    assert (found.outcome, found.headline) == (outcome, headline)
    assert found.more == ((on_loss, RESTS) if on_loss else (RESTS,))
    assert found.text == " ".join([headline, *found.more])
    assert found.baseline == "running_kernel"


def test_what_it_rests_on():
    accuracy = gain(0.02, 0.01, 0.03)
    found = judge(Standing("last", accuracy, None, targets=7, clients=1, seeds=3))
    assert found.more == ("This rests on 7 test targets of 1 client and the mean of 3 seeds.",)


def test_the_prior_that_a_network_starts_from_is_named():
    accuracy = gain(0.02, 0.01, 0.03)
    found = judge(
        Standing("running_kernel", accuracy, None, targets=7, clients=2, is_own_prior=True)
    )
    assert found.headline == (
        "Beats the best counting baseline (running kernel, its own prior) by 2.0 points of acc@1, "
        "95 % interval 1.0 to 3.0."
    )


def test_the_baseline_itself_and_none():
    nothing = gain(0.0, 0.0, 0.0)
    found = judge(Standing("last", nothing, nothing, targets=7, clients=2, is_baseline=True))
    assert (found.outcome, found.headline) == (
        "itself",
        "This is the best counting baseline itself (last).",
    )
    found = judge(Standing(None, None, None, targets=7, clients=2))
    assert (found.outcome, found.headline, found.baseline) == (
        "not known",
        "No verdict: no counting baseline was scored on validation.",
        None,
    )


def test_of_a_report():
    report = {
        "test/targets": 11308,
        "test/clients": 100,
        "best_counting": {"name": "running_kernel"},
        "gains": {
            "running_kernel": {
                "test/acc@1/micro": {"difference": 0.0094, "interval": [0.003, 0.0141]},
                "test/loss/micro": {"difference": -0.0518, "interval": [-0.0624, -0.0418]},
            },
            "last": {"test/acc@1/micro": {"difference": 0.5, "interval": [0.25, 0.75]}},
        },
    }
    found = of_test(report, counting=None, prior="kernel")
    assert found.headline == (
        "Beats the best counting baseline (running kernel, its own prior) by 0.9 points of acc@1, "
        "95 % interval 0.3 to 1.4."
    )
    assert found.more[0] == "The loss is 0.052 lower (0.042 to 0.062; lower is better)."
    assert found.to_dict() == {
        "outcome": "beats",
        "headline": found.headline,
        "more": list(found.more),
        "baseline": "running_kernel",
    }
    assert "its own prior" not in of_test(report, None, prior="none").headline
    # of one client there is no interval, whatever the file has
    alone = of_test(report | {"test/clients": 1}, counting=None, prior=None)
    assert alone.outcome == "no interval"
    assert of_test(report, counting="running_kernel", prior=None).outcome == "itself"
    assert of_test(report | {"best_counting": None}, None, None).outcome == "not known"
