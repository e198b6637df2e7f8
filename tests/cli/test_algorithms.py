"""`fedgru algorithms`: every algorithm is listed, also those of other packages, on 100 columns."""

import json
from typing import get_args

import pytest
from click.testing import CliRunner

from fedgru import algorithms as made_of
from fedgru import config
from fedgru.algorithms import registry
from fedgru.algorithms.catalogue import BY_SETTING
from fedgru.algorithms.fed_buff import FedBuff
from fedgru.cli.main import main
from fedgru.core.errors import ConfigError
from fedgru.engines import registry as engine_registry
from fedgru.workflows.algorithms import explain_algorithm, list_algorithms


def invoke(*words, code=0):
    result = CliRunner().invoke(main, ["algorithms", *words])
    assert result.exit_code == code, result.output
    return result


def put_package(folder, monkeypatch):
    """A package with three entry points: one is good, one is no algorithm, one is not there."""
    info = folder / "site/far_rules-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: far-rules\nVersion: 1.0\n")
    lines = ["[fedgru.algorithms]", "far = far_rules:FAR", "odd = far_rules:ODD", "gone = far:x"]
    (info / "entry_points.txt").write_text("\n".join([*lines, ""]))
    (folder / "site/far_rules.py").write_text(
        "from fedgru.algorithms import AlgorithmInfo\n"
        'FAR = AlgorithmInfo("far", "Far 2031", "goes far", lambda settings, half: half)\n'
        "ODD = 3\n"
    )
    monkeypatch.syspath_prepend(folder / "site")


def test_the_list_as_it_is_printed():
    lines = invoke().output.splitlines()
    assert lines[:5] == [
        "algorithm         engines                local steps  options, with their defaults",
        "fed-avg           jax reference tff ray  C or XLA     --algorithm fed-avg",
        "                  mean of the updates, by examples: McMahan et al. 2017, arXiv:1602.05629",
        "scaffold          jax reference          C or XLA     --algorithm scaffold "
        "--client-optimizer sgd",
        "                  control variates against client drift: Karimireddy et al. 2020, "
        "arXiv:1910.06378",
    ]
    assert lines[5].endswith(
        "keeps its control, the size of its weights; sent besides: a control each"
    )
    assert max(map(len, lines)) <= 100
    assert "fed-prox          jax reference ray      C or XLA     --prox-mu N" in lines
    assert (
        "trimmed-mean      jax reference ray      C or XLA     --robust trimmed-mean "
        "--liar-share 0.2" in lines
    )


def test_every_algorithm_is_listed():
    found = list_algorithms()
    assert [one.name for one in found.by_name] == list(registry.BUILT_IN)
    assert [one.name for one in found.by_setting] == list(BY_SETTING)
    assert not found.not_loaded
    # every value of these settings but the plain one has its line
    for name, plain in (("robust", "none"), ("server_optimizer", "sgd"), ("mean", "clients")):
        _, field = config.fields()[name]
        values = set(get_args(field.annotation)) - {plain}
        assert {one.value for one in BY_SETTING.values() if one.setting == name} == values


@pytest.mark.parametrize("name", [*registry.BUILT_IN, *BY_SETTING])
def test_what_is_listed_holds(name):
    """The settings make the algorithm that is explained, and the engines take them."""
    one = explain_algorithm(name)
    given = one.asked_by | one.needs
    if name in BY_SETTING:
        given[BY_SETTING[name].setting] = BY_SETTING[name].value
    if name == "fed-avg":
        given["mean"] = "clients"
    if "clip_norm" in one.settings:  # which has no default
        given["clip_norm"] = 2.0
    made = made_of.from_settings(config.load({"head": "dense"} | one.settings | given))
    explained = made.server_optimizer if one.asked_by.keys() & {"server_optimizer"} else made
    if name == "fed-buff":  # made around that of the settings, with the simulated clock
        explained = FedBuff(made)
    assert one.explained.startswith((type(explained).__doc__ or "").split("\n")[0])
    assert one.explained
    rule = made.client_rule
    by_xla = rule.correction is not None or rule.at_received
    assert one.local_steps == ("XLA" if by_xla else "C or XLA")
    keeps = getattr(made, "keeps", False) and name != "agnostic-fl"
    assert bool(one.keeps) == (keeps or name == "compressed")  # which keeps something with top-N%
    for engine in engine_registry.ENGINES:
        tried = given | {"engine": engine} | ({"mean": "clients"} if engine == "tff" else {})
        if name == "fed-sub-avg":
            tried["mean"] = "owners"
        try:
            engine_registry.check(config.load(tried))
        except ConfigError:
            assert engine not in one.engines
        else:
            assert engine in one.engines


def test_defaults_are_those_that_are_used():
    for name, default in (("mime_momentum", 0.9), ("num_clusters", 2)):
        listed = [one.settings[name] for one in list_algorithms().by_name if name in one.settings]
        assert listed == [default]


def test_one_in_full():
    output = invoke("q-fed-avg").output
    assert output.startswith(
        "q-fed-avg: clients with a higher loss count more (fairness)\n"
        "  paper:          Li et al. 2020, arXiv:1905.10497\n"
        "  options:        --algorithm q-fed-avg --fairness-q 1.0\n"
        "  a client keeps: nothing\n"
        "  sent besides:   the loss before training\n"
        "  engines:        jax, reference\n"
        "  local steps:    C or XLA\n"
        "\n"
        "Minimises the sum of p_k / (q + 1) * F_k^(q + 1)"
    )
    assert "mean update = sum of p_k F_k^q delta_k / sum of" in output
    assert "h_k(w; w_t) = F_k(w) + mu / 2" in invoke("fed-prox").output


def test_json():
    found = json.loads(invoke("--json").output)
    assert [one["name"] for one in found["by_name"]] == list(registry.BUILT_IN)
    assert found["by_name"][1] == {
        "name": "scaffold",
        "paper": "Karimireddy et al. 2020, arXiv:1910.06378",
        "does": "control variates against client drift",
        "asked_by": {"algorithm": "scaffold"},
        "needs": {"client_optimizer": "sgd"},
        "settings": {},
        "keeps": "its control, the size of its weights",
        "sends": "a control each way: twice the bytes",
        "engines": ["jax", "reference"],
        "local_steps": "C or XLA",
        "package": "",
        "explained": "",
    }
    assert found["by_setting"][0]["asked_by"] == {"prox_mu": None}
    assert json.loads(invoke("ifca", "--json").output)["settings"] == {"num_clusters": 2}


def test_an_unknown_name():
    assert invoke("fed-adan", code=1).output == (
        "Error: there is no algorithm 'fed-adan'. Did you mean fed-adam? All: "
        f"{', '.join([*registry.BUILT_IN, *BY_SETTING])}.\n"
    )


def test_other_packages_bring_some(tmp_path, monkeypatch):
    put_package(tmp_path, monkeypatch)
    output = invoke().output
    lines = [" ".join(line.split()) for line in output.splitlines()]
    place = lines.index("far jax reference C or XLA --algorithm far")
    assert lines[place + 1] == "goes far: Far 2031; package far-rules"
    assert (
        "\ngone is left out: far:x of the package far-rules (fedgru.algorithms) cannot be loaded:\n"
        "ModuleNotFoundError: No module named 'far'. Upgrade the package, or uninstall it.\n"
        "\nodd is left out: far_rules:ODD of the package far-rules (fedgru.algorithms) is a int, "
        "expected a\nAlgorithmInfo.\n"
    ) in output
    assert json.loads(invoke("--json").output)["not_loaded"].keys() == {"gone", "odd"}
    assert invoke("far").output.splitlines()[:3] == [
        "far: goes far",
        "  paper:          Far 2031",
        "  package:        far-rules",
    ]


OWN = '''
from dataclasses import replace

from fedgru.algorithms import PerClient


class Mine(PerClient):
    """Keeps what it likes."""

    keeps = True

    def __init__(self, settings, half):
        super().__init__(half, replace(half.client_rule, by_client=True))
'''


def test_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "far_mine.py").write_text(OWN)
    assert invoke("far_mine:Mine").output == (
        "far_mine:Mine\n"
        "  paper:          your own\n"
        "  options:        --algorithm far_mine:Mine\n"
        "  a client keeps: something of its own\n"
        "  sent besides:   nothing\n"
        "  engines:        jax, reference\n"
        "  local steps:    C or XLA\n"
        "\n"
        "Keeps what it likes.\n"
    )
