"""What is wrong with an algorithm is one clear error, before there is a run folder."""

import pytest
from click.testing import CliRunner

from fedgru.algorithms import registry
from fedgru.cli.main import main
from fedgru.runs.kinds import BASELINES
from fedgru.sweep.search_space import parse_values
from fedgru.workflows import baseline

RULES = """
from fedgru.algorithms import FedAvg, PerClient

three = 3


class Needs:
    def __init__(self, settings, half, more):
        pass


class Raises:
    def __init__(self, settings, half):
        settings.nothing


class Empty:
    name = "empty"

    def __init__(self, settings, half):
        pass


class Mine(PerClient):
    keeps = True

    def __init__(self, settings, half):
        super().__init__(half)


def make_mine(settings, half):
    return Mine(settings, half)


class OddRule(Mine):
    def __init__(self, settings, half):
        super().__init__(settings, half)
        self.client_rule = "adam"


class OnJax(Mine):
    engines = ("jax",)


def nothing(settings, half):
    return None
"""
SMALL = [
    "--users",
    "3",
    "--rounds",
    "1",
    "--hidden-dim",
    "4",
    "--prior",
    "none",
    "--local-epochs",
    "1",
]
BUILT_IN = ", ".join(registry.BUILT_IN)
SGD = "--client-optimizer sgd"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_rules.py").write_text(RULES)
    return tmp_path


def error_of(*words):
    result = CliRunner().invoke(main, [*words])
    assert result.exit_code == 1, result.output
    return result.output[result.output.index("Error: ") :]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--algorithm scafold",
            "--algorithm is 'scafold'. Did you mean scaffold? Known: "
            f"{BUILT_IN}, or MODULE:CLASS of your own.",
        ),
        (
            "--algorithm zzz",
            f"--algorithm is 'zzz'. Known: {BUILT_IN}, or MODULE:CLASS of your own.",
        ),
        (
            "--algorithm fed-prox",
            "--algorithm is 'fed-prox', but another setting asks for that: --prox-mu, such as "
            "--prox-mu 0.01.",
        ),
        (
            "--algorithm median",
            "--algorithm is 'median', but another setting asks for that: --robust, such as "
            "--robust median.",
        ),
        (
            "--algorithm ditto --engine tff --mean clients",
            "--engine tff does not know --algorithm ditto. Use --engine jax or reference, or "
            "--algorithm fed-avg.",
        ),
        (
            "--algorithm ifca --engine ray",
            "--engine ray does not know --algorithm ifca. Use --engine jax or reference, or "
            "--algorithm fed-avg.",
        ),
        (
            "--algorithm own_rules:Mine --engine ray",
            "--engine ray does not know --algorithm own_rules:Mine. Use --engine jax or reference, "
            "or --algorithm fed-avg.",
        ),
        (  # what a function makes is known only when it is made
            "--algorithm own_rules:make_mine --engine ray",
            "--engine ray does not know --algorithm own_rules:make_mine. Use --engine jax or "
            "reference, or --algorithm fed-avg.",
        ),
        (
            "--algorithm own_rules:OnJax --engine reference",
            "--engine reference does not know --algorithm own_rules:OnJax. Use --engine jax, or "
            "--algorithm fed-avg.",
        ),
        (
            "--algorithm own_rules:Needs",
            "--algorithm own_rules:Needs cannot be made from (settings, server_half): TypeError: "
            "Needs.__init__() missing 1 required positional argument: 'more'.",
        ),
        (
            "--algorithm own_rules:Raises",
            "--algorithm own_rules:Raises cannot be made from (settings, server_half): "
            "AttributeError: 'Settings' object has no attribute 'nothing' (own_rules.py, line 14).",
        ),
        (
            "--algorithm own_rules:three",
            "--algorithm own_rules:three is of type int, expected a class or function that takes "
            "(settings, server_half), or an AlgorithmInfo.",
        ),
        (
            "--algorithm own_rules:Empty",
            "--algorithm own_rules:Empty gives an object of type Empty, which is no algorithm: it "
            "has no client_rule, init, start, apply.",
        ),
        (
            "--algorithm own_rules:nothing",
            "--algorithm own_rules:nothing gives an object of type NoneType, which is no "
            "algorithm: it has no name, client_rule, init, start, apply.",
        ),
        (
            "--algorithm own_rules:OddRule",
            "--algorithm own_rules:OddRule has a client_rule of type str, expected a ClientRule.",
        ),
        (
            "--algorithm own_rules:Mien",
            "--algorithm is own_rules:Mien, but own_rules has no Mien. Did you mean Mine?",
        ),
        (
            "--algorithm own_rule:Mine",
            "--algorithm is own_rule:Mine, but there is no module own_rule, neither in the folder "
            "HERE nor installed. Did you mean own_rules?",
        ),
        (
            "--algorithm ditto --fairness-q 2",
            "--fairness-q has no effect with --algorithm ditto. Use --algorithm q-fed-avg, or "
            "leave it out.",
        ),
        (
            "--num-clusters 3",
            "--num-clusters has no effect with --algorithm fed-avg. Use --algorithm ifca, or leave "
            "it out.",
        ),
        (
            "--algorithm own_rules:Mine --ditto-weight 1",
            "--ditto-weight has no effect with --algorithm own_rules:Mine. Use --algorithm ditto, "
            "or leave it out.",
        ),
        (
            "--algorithm fed-per --personal-weights head_kernel,haed_bias",
            "--personal-weights has 'haed_bias', which the model has not. Did you mean head_bias? "
            "Its weights: rows, numbers, recurrent, bias, head_kernel, head_bias.",
        ),
        (
            "--algorithm fed-per --personal-weights=",
            "--personal-weights has '', which the model has not. Its weights: rows, numbers, "
            "recurrent, bias, head_kernel, head_bias.",
        ),
        (
            "--algorithm scaffold",
            "--algorithm scaffold needs --client-optimizer sgd: its paper has no rule for adam.",
        ),
        (
            "--algorithm mime-lite",
            "--algorithm mime-lite needs --client-optimizer sgd: its paper has no rule for adam.",
        ),
        *(
            (
                f"--algorithm {name} {SGD} --agnostic-to zone",
                f"--agnostic-to does not go with --algorithm {name}: its heads are averaged by "
                "--algorithm fed-avg alone.",
            )
            for name in ("scaffold", "mime-lite", "ditto", "own_rules:Mine")
        ),
        (
            "--algorithm ifca --clients-per-call 3",
            "--clients-per-call has no effect with --algorithm ifca: each client starts from "
            "something of its own, so one is trained in a call. Leave it out.",
        ),
    ],
)
def test_train_says_what_is_wrong(here, options, message):
    found = error_of("train", *SMALL, *options.split())
    assert found == f"Error: {message.replace('HERE', str(here))}\n"
    assert not (here / "log").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "deploy app new --algorithm ditto",
            "--algorithm has no effect in a deployment: its server averages updates, and its "
            "clients keep nothing. Leave it out.",
        ),
        ("baseline local --algorithm ditto", "--algorithm has no effect on LOCAL."),
        ("baseline central --algorithm ditto", "--algorithm has no effect on CENTRAL."),
        ("baseline central --ditto-weight 1", "--ditto-weight has no effect on CENTRAL."),
        ("baseline markov --algorithm ditto", "--algorithm has no effect on the baseline markov."),
        (
            "sweep --algorithm fed-avg,dito",
            "--algorithm is 'dito'. Did you mean ditto? Known: "
            f"{BUILT_IN}, or MODULE:CLASS of your own.",
        ),
        (
            "sweep --algorithm fed-avg,scaffold --client-optimizer adam",
            "--algorithm scaffold needs --client-optimizer sgd: its paper has no rule for adam.",
        ),
        (
            "sweep --algorithm fed-avg,own_rules:Needs",
            "--algorithm own_rules:Needs cannot be made from (settings, server_half): TypeError: "
            "Needs.__init__() missing 1 required positional argument: 'more'.",
        ),
        (
            "sweep --algorithm fed-avg,q-fed-avg --fairness-q 1,2",
            "--fairness-q has no effect with --algorithm fed-avg. Use --algorithm q-fed-avg, or "
            "leave it out.",
        ),
    ],
)
def test_other_commands_say_what_is_wrong(here, command, message):
    words = {name.upper(): BASELINES[name].words for name in ("local", "central")}
    for name, text in words.items():
        message = message.replace(f"on {name}.", f"on {text}.")
    assert error_of(*command.split()) == f"Error: {message}\n"
    assert sorted(path.name for path in here.iterdir() if path.name != "__pycache__") == [
        "own_rules.py"
    ]


def test_a_config_file_with_an_algorithm_gives_the_same_baseline(here):
    (here / "own.toml").write_text('[algorithm]\nalgorithm = "gone_module:Gone"\n')
    found = baseline.settings_of(BASELINES["central"], {}, here / "own.toml")
    assert found == baseline.settings_of(BASELINES["central"], {})


@pytest.mark.slow
def test_a_sweep_over_algorithms(here):
    words = ["sweep", *SMALL, "--algorithm", "fed-per,own_rules:Mine", "--name", "both"]
    result = CliRunner().invoke(main, [*words, "--seeds", "1", "--min-checkins", "5"])
    assert result.exit_code == 0, result.output
    table = (here / "log/sweeps/both/sweep.csv").read_text()
    assert "fed-per" in table and "own_rules:Mine" in table


def test_a_list_of_weights_is_one_value_of_a_sweep():
    assert parse_values("personal_weights", "rows,head_bias") == ["rows,head_bias"]
