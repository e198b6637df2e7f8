"""fedgru/engines: every engine against the reference, and that the fast path is what ran."""

from dataclasses import replace

import numpy as np
import pytest

from fedgru import algorithms, config
from fedgru.agnostic import objective
from fedgru.algorithms.client_start import own_weights
from fedgru.algorithms.fed_avg import FedAvg
from fedgru.algorithms.fed_sub_avg import FedSubAvg
from fedgru.core import seeding
from fedgru.core.errors import ConfigError, TrainingError
from fedgru.core.jax_setup import import_jax
from fedgru.data import datasets, synthetic
from fedgru.engines import registry
from fedgru.engines.jax import engine as jax_engine
from fedgru.engines.jax import stacked
from fedgru.engines.jax.engine import JaxEngine
from fedgru.engines.jax.forward_pass import Form
from fedgru.engines.ray.engine import RayEngine
from fedgru.engines.reference import ReferenceEngine
from fedgru.engines.tff.engine import TffEngine
from fedgru.evaluation import evaluate
from fedgru.models import gru
from fedgru.task.task import build_task
from fedgru.testing import largest_gap
from fedgru.training.rounds import FederatedTraining, run_round
from tests.conftest import HAS_TFF, needs_ray, needs_tff, start

COHORT = [0, 2, 5]  # clients of different size
# A gradient that passes near zero makes Adam's step a matter of rounding, the more so the larger
# the steps are: hence the small client_lr, and the small server_lr with Adam and Yogi.
SMALL = {
    "hidden_dim": 8,
    "batch_size": 2,
    "seq_len": 5,
    "dropout": 0.0,
    "threads": 1,
    "local_epochs": 2,
    "client_lr": 0.003,
    "mean": "clients",
    "prior": "backoff",
}
AGNOSTIC = {"method": "reversal", "alpha": 0.6, "alpha_schedule": "constant"}
BY_SGD = {"client_optimizer": "sgd", "client_lr": 0.1}
ROBUST = {  # of eight clients, so that each rule has somebody to leave out
    "median": {"mean": "owners", "robust": "median"},
    "trimmed mean": {"mean": "owners", "robust": "trimmed-mean", "liar_share": 0.1},
    "krum": {"robust": "krum", "liar_share": 0.2},
    "bulyan": {"mean": "owners", "robust": "bulyan", "liar_share": 0.1},
    "geometric median": {"robust": "geometric-median"},
    "geometric median, owners": {"mean": "owners", "robust": "geometric-median"},
    "centred clipping": {"robust": "centred-clipping", "clip_norm": 0.05},
    "centred clipping, owners": {
        **{"mean": "owners", "robust": "centred-clipping", "clip_norm": 0.05},
        **{"robust_iterations": 2, "server_optimizer": "momentum", "server_lr": 0.5},
    },
    "norm bounding": {"robust": "norm-bounding", "clip_norm": 0.05},
}
CANDIDATES = {**BY_SGD, "head": "candidates", "head_dim": 5, "head_dropout": 0.0}
CANDIDATES |= {"server_optimizer": "sgd"}  # Adam would make rounding errors of what is zero large
ATTACKS = {  # of the same eight
    "alie": {"attack": "alie", "attackers": 3, "attack_scale": 1.5},
    "inner-product": {"attack": "inner-product", "attackers": 2, "mean": "owners"},
    "backdoor": {"attack": "backdoor", "attackers": 2},
    "candidates, backdoor": {**CANDIDATES, "attack": "backdoor", "attackers": 2},
    "candidates, label-flip": {**CANDIDATES, "attack": "label-flip", "attackers": 2},
}
CASES = {
    "client adam, server sgd": {},
    "client sgd": {"client_optimizer": "sgd", "client_lr": 0.1},
    "server momentum": {"server_optimizer": "momentum", "server_lr": 0.5},
    "server adam": {"server_optimizer": "adam", "server_lr": 0.001},
    "server yogi": {"server_optimizer": "yogi", "server_lr": 0.001},
    "server adagrad": {"server_optimizer": "adagrad", "server_lr": 0.001},
    "lstm": {"cell": "lstm"},
    "no prior": {"prior": "none"},
    "chunks": {"layout": "chunks"},
    "own feature": {"features": "venue,tests.own_features:late_and_home"},
    "owners": {"mean": "owners"},
    "owners, server adam": {"mean": "owners", "server_optimizer": "adam", "server_lr": 0.001},
    "equal": {"client_weights": "equal"},
    "sessions": {"session_gap": "48h", "seq_len": 3},
    "sessions, lstm": {"session_gap": "48h", "seq_len": 3, "cell": "lstm"},
    "proximal": {"prox_mu": 3.0},
    "proximal, client sgd": {"client_optimizer": "sgd", "client_lr": 0.1, "prox_mu": 3.0},
    "scaffold": {**BY_SGD, "algorithm": "scaffold"},
    "scaffold, owners": {**BY_SGD, "algorithm": "scaffold", "mean": "owners"},
    "mime-lite": {**BY_SGD, "algorithm": "mime-lite", "mime_momentum": 0.6},
    "fed-nova": {"algorithm": "fed-nova"},
    "agnostic-fl": {"algorithm": "agnostic-fl", "mixture_lr": 0.2},
    "q-fed-avg": {**BY_SGD, "algorithm": "q-fed-avg", "fairness_q": 2.0, "prior": "none"},
    "q-fed-avg, owners": {"algorithm": "q-fed-avg", "mean": "owners"},
    "fed-per": {"algorithm": "fed-per", "personal_weights": "head_bias,rows"},
    "ditto": {"algorithm": "ditto", "ditto_weight": 3.0},
    "ifca": {"algorithm": "ifca", "num_clusters": 8, "prior": "none"},
    **ROBUST,
    **ATTACKS,
    "reversal": {**AGNOSTIC, "agnostic_to": "weekend"},
    "reversal, client": {**AGNOSTIC, "agnostic_to": "client"},
    "reversal, lambda": {
        "agnostic_to": "weekend",
        "method": "reversal",
        "alpha_schedule": "constant",
        "protected_weight": 1.5,
    },
    "reversal, client sgd": {
        **{"client_optimizer": "sgd", "client_lr": 0.1},
        **AGNOSTIC,
        **{"agnostic_to": "zone", "zones": 3},
    },
    # several local steps: some weights are zero at the start, and others have no gradient then
    "candidates": CANDIDATES,
    "candidates, venues": {**CANDIDATES, "target": "venue"},
    "candidates, sessions": {**CANDIDATES, "session_gap": "48h", "seq_len": 3},
    "candidates, lstm": {**CANDIDATES, "cell": "lstm"},
    "candidates, asked": {**CANDIDATES, "asked_at": True},
    "candidates, scaffold": {**CANDIDATES, "algorithm": "scaffold"},
    "candidates, proximal": {**CANDIDATES, "prox_mu": 3.0},
    "candidates, fed-per": {**CANDIDATES, "algorithm": "fed-per"},
    "candidates, ditto": {**CANDIDATES, "algorithm": "ditto", "ditto_weight": 3.0},
    "candidates, ifca": {**CANDIDATES, "algorithm": "ifca", "num_clusters": 8},
}


def cohort_of(case):
    """The clients of each round of a case."""
    return list(range(8)) if case in ROBUST | ATTACKS else COHORT


def with_loop(task, **settings):
    """The task with other LoopSettings."""
    loop = task.settings.loop.model_copy(update=settings)
    return replace(task, settings=task.settings.model_copy(update={"loop": loop}))


class XlaEngine(JaxEngine):
    """As the jax engine is where the C code cannot be."""

    def __init__(self, task, client_rule=None):
        super().__init__(with_loop(task, local_loop="xla"), client_rule)


class StackedEngine(JaxEngine):
    """As the jax engine is on a GPU; here two stacks, of two clients and of one."""

    def __init__(self, task, client_rule=None):
        super().__init__(with_loop(task, clients_per_call=2), client_rule)


def native_runs(case):
    """Whether the C code knows what a case asks for."""
    algorithm = algorithms.registry.find(CASES[case].get("algorithm", "fed-avg"))
    return CASES[case].get("cell", "gru") == "gru" and "reversal" not in case and algorithm.in_c


def tff_knows(case):
    """Whether TensorFlow Federated is not refused with what a case asks for."""
    settings = config.load(SMALL | CASES[case] | {"engine": "tff"})
    try:
        registry.check(settings)
    except ConfigError:
        return False
    return True


def pair(engine, name, case, *quick):
    """A parameter of PAIRS; slow, unless the case is one of those that stand for the others."""
    marks = [] if case in quick else pytest.mark.slow
    return pytest.param(engine, case, id=f"{name}-{case}", marks=marks)


FIRST = "client adam, server sgd"
# These share the reference's model, but for the last two.
QUICK = (FIRST, "server momentum", "server adam", "owners, server adam", "reversal", "candidates")
QUICK += ("sessions", "candidates, label-flip")  # there are clients who have been everywhere
STACKED = (  # what goes another way in a stack
    "client adam, server sgd",
    "client sgd",
    "lstm",
    "no prior",
    "chunks",
    "sessions",
    "proximal",
    "reversal, client",
    "candidates",
)
PAIRS = [pair(JaxEngine, "jax", case, *QUICK) for case in CASES]
# the robust means and the attacks differ at the server, or in the data
PAIRS += [
    pair(XlaEngine, "xla", case, FIRST)
    for case in CASES
    if native_runs(case) and case not in ROBUST | ATTACKS
]
PAIRS += [pair(StackedEngine, "stacked", case, FIRST) for case in STACKED]
PAIRS += [
    pytest.param(TffEngine, case, id=f"tff-{case}", marks=[needs_tff, pytest.mark.tff])
    for case in CASES
    if tff_knows(case)
]
# The rest of it is the jax engine: what is added up, how, and what goes to the actors.
RAY_CASES = (
    *("client adam, server sgd", "owners, server adam", "lstm", "proximal", "reversal"),
    *("equal", "fed-nova", "krum", "centred clipping, owners", "norm bounding"),
    *("candidates", "candidates, venues", "candidates, asked", "sessions"),
    *ATTACKS,
)
PAIRS += [
    pytest.param(RayEngine, case, id=f"ray-{case}", marks=[needs_ray, pytest.mark.dist])
    for case in RAY_CASES
]


@pytest.fixture(scope="module")
def case_task(tiny_data_set):
    """Build the task of a case."""
    city = synthetic.make_city(synthetic.CityConfig(num_users=8, checkins_per_user=40, seed=1))
    eight = datasets.DataSet("eight", city.check_ins, {"fingerprint": "eight"}, city.best_prob)

    def make(case, **overrides):
        if CASES[case].get("head") == "candidates" and HAS_TFF:
            pytest.skip("the reference has this head with Keras 3, and TFF comes with Keras 2")
        data_set = eight if case in ROBUST | ATTACKS else tiny_data_set
        return build_task(data_set, config.load(SMALL | CASES[case] | overrides))

    return make


@pytest.fixture(scope="module")
def run_two_rounds(case_task):
    """Two rounds of an engine on a case: ServerState, train metrics, val metrics. Runs are kept."""
    done, references = {}, {}

    def engine_of(engine_class, task):
        """An engine of the task; one reference for all cases that differ at the server alone."""
        if engine_class is not ReferenceEngine:
            return engine_class(task)
        settings = task.settings
        own = settings.model_dump_json(exclude={"server"})
        key = task.data_name, own, settings.server.client_weights
        if key not in references:  # Keras takes seconds to build and trace its models
            references[key] = ReferenceEngine(task)
        return references[key]

    def run(engine_class, case):
        key = engine_class, case
        if key not in done:
            task = case_task(case)
            engine = engine_of(engine_class, task)
            algorithm, state = start(task)
            training = FederatedTraining(engine, algorithm)
            rows = []
            for _ in range(2):
                result = training.run_round(state, cohort_of(case))
                state = result.state
                rows.append(result.metrics)
            val = training.validate(state)
            training.close()
            engine.close()
            done[key] = state, rows, val
        return done[key]

    return run


@pytest.mark.parametrize(("engine", "case"), PAIRS)
def test_equals_the_reference(run_two_rounds, engine, case, request):
    if engine is RayEngine:
        request.getfixturevalue("ray_in_place")
    expected, expected_rows, expected_val = run_two_rounds(ReferenceEngine, case)
    state, rows, val = run_two_rounds(engine, case)
    assert largest_gap(state.weights, expected.weights) < 1
    for row, expected_row in zip(rows, expected_rows, strict=True):
        assert row == pytest.approx(expected_row, abs=1e-5)
    # venues that nobody's past tells apart are equally likely: rounding decides their ranks
    by_rounding = ("mrr", "ndcg") if "venues" in case else ()
    for name, expected_value in expected_val.items():
        within = 1e-3 if name.split("/")[1] in by_rounding else 1e-5
        assert val[name] == pytest.approx(expected_value, abs=within), name
    assert val.keys() == expected_val.keys()
    # the slots too, so that a run can go on with another engine
    assert state.round_num == 2 and state.optimizer.keys() == expected.optimizer.keys()
    for name, slot in expected.optimizer.items():
        if name == "step":
            assert state.optimizer["step"] == slot == 2
        elif name == "num_clients":
            assert state.optimizer[name] == slot > 3
        else:
            assert largest_gap(state.optimizer[name], slot) < 1


@pytest.mark.parametrize("case", CASES)
def test_the_case_has_what_a_fault_would_show_in(case_task, case):
    task = case_task(case)
    data = [task.local_data(client) for client in cohort_of(case)]
    assert len({d.num_examples for d in data}) >= 3  # equal weights would give another mean
    assert all(len(d.mask) > 1 for d in data)  # the state is carried, Adam goes on
    if case != "chunks":  # which are one pass over all local epochs, without tails
        assert all(d.passes == 2 for d in data)  # the state starts anew, Adam does not
        assert any((d.mask == 0).any() for d in data)  # a padded tail


@pytest.mark.parametrize("engine_class", [JaxEngine, XlaEngine, ReferenceEngine])
@pytest.mark.parametrize("target", ["category", "venue"])
def test_training_on_candidates_has_the_loss_of_all_classes(case_task, engine_class, target):
    """Places, and what is known of somewhere new, give what evaluation gives class by class."""
    once = {"batch_size": 1, "local_epochs": 1, "client_lr": 1e-20, "target": target}
    task = case_task("candidates", **once)
    draw = np.random.default_rng(0)
    weights = task.spec.init_weights(seeding.rng(0, "weights"))
    for name in weights:
        weights[name] = weights[name] + draw.normal(0, 0.1, weights[name].shape).astype("f4")
    weights["prior_scale"] = np.float32(-0.5)  # padding is not likely even so
    engine = engine_class(task)
    (update,) = engine.local_updates(weights, [2], 1)
    positions, log_probs = evaluate.model_log_probs(engine, weights, "train", True, np.array([2]))
    found = log_probs(2, slice(None))
    targets = task.classes[positions]
    assert (targets >= 0).all() and len(targets) == update.num_examples
    assert update.loss_sum == pytest.approx(-found[np.arange(len(targets)), targets].sum(), 1e-5)
    assert update.num_correct == pytest.approx((found.argmax(1) == targets).sum(), abs=1e-3)
    places = task.local_data(2).targets
    assert 0 < (places == 0).sum() < places.size  # of both kinds


class RunsAllStepsOfTheLongest(StackedEngine):
    def _train_stack(self, dense, table, round_num, constants, clients):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stacked, "stack", self._longest)
            return super()._train_stack(dense, table, round_num, constants, clients)

    @staticmethod
    def _longest(*args):
        found = STACK(*args)
        return replace(found, num_steps=np.full_like(found.num_steps, found.num_steps.max()))


STACK = stacked.stack


class ForgetsToTurnTheGradient(JaxEngine):
    def local_updates(self, weights, cohort, round_num, constants=None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(objective, "reverse_gradient", lambda x, weight: x)
            yield from super().local_updates(weights, cohort, round_num, constants)


def test_a_gradient_that_is_not_turned_is_seen(run_two_rounds):
    expected, _, _ = run_two_rounds(ReferenceEngine, "reversal")
    state, _, _ = run_two_rounds(ForgetsToTurnTheGradient, "reversal")
    assert largest_gap(state.weights, expected.weights) > 20


class ForgetsTheState(XlaEngine):
    def local_updates(self, weights, cohort, round_num, constants=None):
        recur = gru.recur

        def forgetful(cell, gates, recurrent, bias, state, length=None):
            return recur(cell, gates, recurrent, bias, tuple(0.0 * s for s in state), length)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gru, "recur", forgetful)
            yield from super().local_updates(weights, cohort, round_num)


class CountsPadding(JaxEngine):
    def _prepare(self, *args):
        data = super()._prepare(*args)
        rows, numbers, targets, mask, *others = data.arrays
        padded = np.ones_like(mask)
        return replace(data, arrays=(rows, numbers, targets, padded, *others))


class WeighsClientsEqually(JaxEngine):
    def local_updates(self, weights, cohort, round_num, constants=None):
        for update in super().local_updates(weights, cohort, round_num):
            yield replace(update, num_examples=1, loss_sum=0.0)


class CarriesTheStateIntoTheNextEpoch(JaxEngine):
    def _prepare(self, *args):
        data = super()._prepare(*args)
        twice = (None if a is None else np.concatenate([a[: data.steps]] * 2) for a in data.arrays)
        return replace(data, arrays=tuple(twice), steps=2 * data.steps, passes=1)


class RestartsAdamAtEachEpoch(JaxEngine):
    def _prepare(self, *args):
        return replace(super()._prepare(*args), passes=1)

    def local_updates(self, weights, cohort, round_num, constants=None):
        for client in cohort:
            (first,) = super().local_updates(weights, [client], round_num)
            between = {name: weights[name] + u for name, u in first.dense.items()}
            between["rows"] = weights["rows"].copy()
            between["rows"][first.row_ids] += first.row_update
            (second,) = super().local_updates(between, [client], round_num)
            yield replace(
                second,
                dense={name: first.dense[name] + u for name, u in second.dense.items()},
                row_update=first.row_update + second.row_update,
                loss_sum=first.loss_sum + second.loss_sum,
            )


class NeverRestartsAdam(ReferenceEngine):
    def _client_update(self, weights, client, starts=None):
        update = super()._client_update(weights, client, starts)
        self._fresh_optimizer = [v.numpy() for v in self._optimizer.variables]
        return update


class ForgetsTheProximalTerm(JaxEngine):
    runs_whole_rounds = True

    def run_round(self, algorithm, state, cohort):
        half = algorithm.server_half
        return run_round(JaxEngine(self.task, half.client_rule), half, state, cohort)


class RestartsTheServersAdam(JaxEngine):
    runs_whole_rounds = True

    def run_round(self, algorithm, state, cohort):
        fresh = replace(algorithm.init(state.weights), round_num=state.round_num)
        return run_round(JaxEngine(self.task), algorithm, fresh, cohort)


class RestartsTheServersAdagrad(RestartsTheServersAdam):
    pass


class ChangesStarts(JaxEngine):
    """Changes what a client starts from, by `changed`."""

    def local_updates(self, weights, cohort, round_num, constants=None, starts=None):
        def start(client, row_ids):
            return self.changed(starts(client, row_ids), own_weights(weights, row_ids))

        other = None if starts is None else start
        return super().local_updates(weights, cohort, round_num, constants, other)


class ForgetsTheOffset(ChangesStarts):
    @staticmethod
    def changed(start, received):
        return replace(start, offset=None)


class ForgetsTheAnchor(ChangesStarts):
    @staticmethod
    def changed(start, received):
        return replace(start, anchor=None)


class StartsFromTheReceived(ChangesStarts):
    @staticmethod
    def changed(start, received):
        return replace(start, weights=received)


class MovesAwayFromTheReceived(JaxEngine):
    def __init__(self, task, client_rule=None):
        super().__init__(task, client_rule and replace(client_rule, at_received=False))


class CountsEpochs(JaxEngine):
    def local_updates(self, *args, **given):
        for update in super().local_updates(*args, **given):
            yield replace(update, num_steps=2)


class ForgetsWhatIsNew(JaxEngine):
    """Takes any new place for the one that the client went to."""

    def _prepare(self, *args):
        data = super()._prepare(*args)
        *others, beside, protected = data.arrays
        beside = beside._replace(log_within=0 * beside.log_within)
        return replace(data, arrays=(*others, beside, protected))


class ForgetsTheContext(JaxEngine):
    def _prepare(self, *args):
        data = super()._prepare(*args)
        *others, beside, protected = data.arrays
        beside = beside._replace(context=np.roll(beside.context, 1, axis=0))
        return replace(data, arrays=(*others, beside, protected))


def test_faults_that_the_head_candidates_shows_are_seen(run_two_rounds):
    expected, expected_rows, _ = run_two_rounds(ReferenceEngine, "candidates")
    state, _, _ = run_two_rounds(ForgetsTheContext, "candidates")
    assert largest_gap(state.weights, expected.weights) > 100
    _, rows, _ = run_two_rounds(ForgetsWhatIsNew, "candidates")
    assert rows[0]["loss"] < expected_rows[0]["loss"] - 0.1


class SeesNoStates(JaxEngine):
    def hidden_states(self, *args, **given):
        return 0 * super().hidden_states(*args, **given)


@pytest.mark.parametrize(
    ("fault", "case"),
    [
        (ForgetsTheOffset, "scaffold"),
        (ForgetsTheOffset, "mime-lite"),
        (MovesAwayFromTheReceived, "mime-lite"),
        (CountsEpochs, "fed-nova"),
        (SeesNoStates, "q-fed-avg"),
        (SeesNoStates, "agnostic-fl"),
        (StartsFromTheReceived, "fed-per"),
        (StartsFromTheReceived, "ifca"),
    ],
)
def test_a_fault_that_an_algorithm_shows_is_seen(run_two_rounds, fault, case):
    expected, _, _ = run_two_rounds(ReferenceEngine, case)
    state, _, _ = run_two_rounds(fault, case)
    assert largest_gap(state.weights, expected.weights) > 100


def test_a_fault_in_the_clients_own_models_is_seen(run_two_rounds):
    """Ditto's shared model does not depend on them: their scores do."""
    expected, _, expected_val = run_two_rounds(ReferenceEngine, "ditto")
    state, _, val = run_two_rounds(ForgetsTheAnchor, "ditto")
    assert largest_gap(state.weights, expected.weights) < 1
    assert abs(val["val/loss/micro"] - expected_val["val/loss/micro"]) > 1e-4


@pytest.mark.parametrize(
    "fault",
    [
        ForgetsTheState,
        CarriesTheStateIntoTheNextEpoch,
        CountsPadding,
        WeighsClientsEqually,
        RestartsAdamAtEachEpoch,
        NeverRestartsAdam,
        ForgetsTheProximalTerm,
        RestartsTheServersAdam,
        RestartsTheServersAdagrad,
        RunsAllStepsOfTheLongest,
    ],
)
def test_a_planted_fault_is_seen(run_two_rounds, fault):
    seen_in = {
        RestartsTheServersAdam: "server adam",
        RestartsTheServersAdagrad: "server adagrad",
        ForgetsTheProximalTerm: "proximal",
    }
    case = seen_in.get(fault, "client adam, server sgd")
    expected, _, _ = run_two_rounds(ReferenceEngine, case)
    state, _, _ = run_two_rounds(fault, case)
    assert largest_gap(state.weights, expected.weights) > 100


class TakesThePlainMean(JaxEngine):
    runs_whole_rounds = True

    def run_round(self, algorithm, state, cohort):
        kind = FedSubAvg if algorithm.over_owners else FedAvg
        plain = kind(algorithm.server_optimizer, algorithm.client_rule)
        return run_round(JaxEngine(self.task), plain, state, cohort)


class TakesNobodyForALiar(JaxEngine):
    def __init__(self, task, client_rule=None):
        honest = task.settings.faults.model_copy(update={"attack": "none", "attackers": None})
        settings = task.settings.model_copy(update={"faults": honest})
        super().__init__(replace(task, settings=settings), client_rule)


class ForgetsTheCentre(JaxEngine):
    runs_whole_rounds = True

    def run_round(self, algorithm, state, cohort):
        fresh = algorithm.init(state.weights).optimizer["centre"]
        state = replace(state, optimizer={**state.optimizer, "centre": fresh})
        return run_round(JaxEngine(self.task), algorithm, state, cohort)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "case"),
    [
        *((TakesThePlainMean, case) for case in ROBUST),
        (ForgetsTheCentre, "centred clipping"),
        (ForgetsTheCentre, "centred clipping, owners"),
        *((TakesNobodyForALiar, case) for case in ATTACKS),
    ],
)
def test_a_fault_in_a_robust_mean_or_an_attack_is_seen(run_two_rounds, fault, case):
    expected, _, _ = run_two_rounds(ReferenceEngine, case)
    state, _, _ = run_two_rounds(fault, case)
    assert largest_gap(state.weights, expected.weights) > 100


def test_a_client_moves_its_own_rows_alone(make_task):
    task = make_task(client_lr=0.01)
    weights = gru.init_weights(task.spec, seeding.rng(0, "weights"))
    for engine in (JaxEngine(task), ReferenceEngine(task)):
        (update,) = engine.local_updates(weights, [2], round_num=1)
        own = {row for row in np.unique(task.local_data(2).rows) if row >= 0}
        assert set(update.row_ids.tolist()) == own
        assert 0 < len(own) < task.spec.num_rows
        assert np.abs(update.row_update).min(axis=1).max() > 0


def test_threads_and_cohort_order_change_nothing(make_task):
    results = []
    for threads, cohort in ((1, [0, 1, 2, 3]), (2, [0, 1, 2, 3])):
        task = make_task(threads=threads, dropout=0.3)
        algorithm, state = start(task)
        results.append(run_round(JaxEngine(task), algorithm, state, cohort).state.weights)
    for name, array in results[0].items():
        np.testing.assert_array_equal(array, results[1][name])
    task = make_task(dropout=0.3)
    algorithm, state = start(task)
    turned = run_round(JaxEngine(task), algorithm, state, [3, 1, 0, 2]).state.weights
    for name, array in results[0].items():
        np.testing.assert_allclose(array, turned[name], atol=1e-6)


def test_nothing_is_compiled_after_round_one(make_task):
    task = make_task(local_loop="xla")
    engine = JaxEngine(task)
    algorithm, state = start(task)
    assert engine.local_loops_compiled == 0
    state = run_round(engine, algorithm, state, task.training_clients).state
    assert engine.local_loops_compiled == 1  # one shape serves clients of all lengths
    run_round(engine, algorithm, state, task.training_clients)
    assert engine.local_loops_compiled == 1


def test_a_stack_is_one_compiled_call_and_draws_the_same_dropout(make_task):
    task = make_task(dropout=0.3, clients_per_call=100)
    weights = gru.init_weights(task.spec, seeding.rng(0, "weights"))
    one_by_one = JaxEngine(make_task(dropout=0.3, device="cpu"))
    engine = JaxEngine(task)
    cohort = [5, 0, 3, 1]
    stacks = []
    train = engine._train_stack
    engine._train_stack = lambda *args: stacks.append(args[-1]) or train(*args)
    for _ in range(2):
        found = list(engine.local_updates(weights, cohort, round_num=1))
        assert engine.local_loops_compiled == 1
    assert [sorted(clients) for clients in stacks] == [sorted(cohort)] * 2
    expected = list(one_by_one.local_updates(weights, cohort, round_num=1))
    assert [update.client for update in found] == cohort
    for update, other in zip(found, expected, strict=True):
        assert update.loss_sum == pytest.approx(other.loss_sum, rel=1e-5)
        assert update.num_examples == other.num_examples
        np.testing.assert_array_equal(update.row_ids, other.row_ids)
        assert largest_gap(update.dense, other.dense) < 1
        assert largest_gap({"rows": update.row_update}, {"rows": other.row_update}) < 1


def test_a_stack_is_padded_with_clients_that_have_no_steps(make_task):
    task = make_task()
    engine = JaxEngine(task)
    table = gru.init_weights(task.spec, seeding.rng(0, "weights"))["rows"]
    prepared = [engine._prepare(client) for client in (0, 2, 5)]
    found = stacked.stack(prepared, [np.array([i, 7], np.uint32) for i in range(3)], table)
    assert found.rows.shape[0] == len(found.keys) == len(found.num_steps) == 4
    assert found.num_steps.tolist() == [*(d.steps * d.passes for d in prepared), 0]
    assert not found.rows[3].any() and not found.arrays[3][3].any()
    for at, data in enumerate(prepared):
        np.testing.assert_array_equal(found.rows[at, : len(data.row_ids)], table[data.row_ids])
        for array, own in zip(found.arrays, data.arrays, strict=True):
            if own is None:
                assert array is None
            else:
                np.testing.assert_array_equal(array[at, : len(own)], own)


def test_the_engine_says_where_it_computes(make_task):
    assert str(JaxEngine(make_task(threads=1, device="cpu"))) == (
        "jax on cpu (1 thread; local steps in C)"
    )
    assert str(JaxEngine(make_task(threads=1, device="cpu", local_loop="xla"))) == (
        "jax on cpu (1 thread; local steps by XLA)"
    )
    assert str(JaxEngine(make_task(threads=2, device="cpu", clients_per_call=8))) == (
        "jax on cpu (2 threads, up to 8 clients in a call; local steps by XLA: the C code cannot "
        "be used, it trains one client in a call)"
    )


def test_a_gpu_that_is_not_there(make_task, monkeypatch):
    jax = import_jax()
    cpus = jax.devices("cpu")

    def devices(kind="cpu"):
        if kind != "cpu":
            raise RuntimeError(f"Unknown backend {kind}")
        return cpus

    monkeypatch.setattr(jax, "devices", devices)  # as it is where there is none
    with pytest.raises(ConfigError) as error:
        JaxEngine(make_task(device="gpu"))
    assert str(error.value) == (
        "`device` is gpu, but JAX finds only cpu here. For an NVIDIA GPU install its JAX "
        '(pip install "jax[cuda12]"), or set `device` to cpu.'
    )


def test_dropout_is_drawn_anew_for_each_round_and_client(make_task):
    task = make_task(dropout=0.5)
    weights = gru.init_weights(task.spec, seeding.rng(0, "weights"))
    engine = JaxEngine(task)
    first, again, second = (
        next(engine.local_updates(weights, [0], round_num)).loss_sum for round_num in (1, 1, 2)
    )
    assert first == again != second


@pytest.mark.parametrize("num_rows", [1, 2])
@pytest.mark.parametrize("loop", ["native", "xla"])
def test_packed_walk_equals_one_client_at_a_time(make_task, monkeypatch, loop, num_rows):
    # clients share rows, and rows take several parts
    monkeypatch.setattr(jax_engine, "FORWARD_SEQ_LEN", 16)
    monkeypatch.setattr(jax_engine, "FORWARD_ROWS", num_rows)
    monkeypatch.setattr(
        "fedgru.engines.jax.native.calls.FORWARD_FORM", Form(num_rows, num_rows, 16, False)
    )
    task = make_task(threads=2, local_loop=loop)
    clients = task.clients
    weights = gru.init_weights(task.spec, seeding.rng(0, "weights"))
    first = clients.starts[:-1] + np.arange(len(clients)) * 3
    end = clients.starts[1:] - np.arange(len(clients)) * 4
    wanted = np.concatenate([np.arange(f, e, 3) for f, e in zip(first, end, strict=True)])
    found = JaxEngine(task).hidden_states(weights, first, end, wanted)
    for client in range(len(clients)):
        own = slice(first[client], end[client])
        gates = gru.project(
            weights, task.inputs.rows[own][:, None], task.inputs.numbers[own][:, None]
        )
        state = gru.zero_state("gru", task.spec.hidden_dim, 1)
        hidden, _ = gru.recur("gru", gates, weights["recurrent"], weights["bias"], state)
        at = (wanted >= own.start) & (wanted < own.stop)
        np.testing.assert_allclose(found[at], hidden[::3, 0], atol=1e-5)


def test_a_loss_that_is_not_a_number_stops_and_names_the_client(make_task):
    task = make_task(client_optimizer="sgd", client_lr=1e38)
    algorithm, state = start(task)
    engine = JaxEngine(task)
    with pytest.raises(TrainingError) as error:
        run_round(engine, algorithm, state, [4, 1])
    assert str(error.value) == (
        f"training loss became NaN in round 1 (client {task.clients.client_ids[4]} first). "
        "Try a smaller `client_lr` (now 1e+38) or `server_lr` (now 1)."
    )


def test_divergence_is_told_from_bad_luck(make_task):
    for client_lr, told in (
        (70.0, "the train loss of round 1 is .* nats, "),
        (1000.0, "2 of 2 updates cannot be used in round 1 "),  # they are too large as well
    ):
        task = make_task(client_optimizer="sgd", client_lr=client_lr, prior="none")
        algorithm, state = start(task)
        with pytest.raises(TrainingError, match=f"^training diverged: {told}"):
            run_round(JaxEngine(task), algorithm, state, np.array([0, 1]))


def test_the_reference_needs_keras_on_tensorflow(make_task, monkeypatch):
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    with pytest.raises(ConfigError) as error:
        ReferenceEngine(make_task())
    assert str(error.value) == (
        "`engine` reference needs Keras on TensorFlow, but KERAS_BACKEND is jax, where a training "
        "step does not carry the state of a stateful layer. Unset KERAS_BACKEND."
    )
