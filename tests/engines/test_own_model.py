"""A Keras model of one's own on the reference engine: the same numbers by other routes."""

import re

import numpy as np
import pytest

from fedgru.agnostic import protection
from fedgru.core.errors import ConfigError, TrainingError
from fedgru.engines import registry
from fedgru.engines.fastest import fastest
from fedgru.engines.reference import ReferenceEngine
from fedgru.evaluation import audit, evaluate
from fedgru.predict.predictor import Predictor, check_ins_of
from fedgru.predict.schema import Schema
from fedgru.testing import largest_gap
from fedgru.training.fine_tuning import evaluate_fine_tuned
from fedgru.training.rounds import run_round
from fedgru.training.traffic import count_traffic, own_rows
from tests import own_models
from tests.conftest import slow_but, start
from tests.engines.test_engines import AGNOSTIC, COHORT

OWN = {"engine": "reference", "features": "user,category,venue,gap,clock", "local_epochs": 2}
OWN |= {"client_lr": 0.003}


def own_task(make_task, name, **settings):
    sizes = {"hidden_dim": 256, "dropout": 0.3}  # the defaults: the function decides
    return make_task(model=f"tests.own_models:{name}", **sizes, **OWN | settings)


def two_rounds(task, engine_class=ReferenceEngine, start_weights=None):
    """The ServerState and the metrics after two rounds, and those of validation."""
    algorithm, state = start(task)
    if start_weights is not None:
        state = algorithm.init(start_weights)
    engine, rows = engine_class(task, algorithm.client_rule), []
    for _ in range(2):
        result = run_round(engine, algorithm, state, COHORT)
        state = result.state
        rows.append(result.metrics)
    rows.append(evaluate.evaluate(engine, state.weights, "val").summary())
    return state.weights, rows


def as_built_in(weights, cell="gru"):
    """The weights of `own_models.built_in` under the names of the built-in model."""
    names = {
        f"rows/{cell}_cell/kernel": "numbers",
        f"rows/{cell}_cell/recurrent_kernel": "recurrent",
        f"rows/{cell}_cell/bias": "bias",
        "head/kernel": "head_kernel",
        "head/bias": "head_bias",
    }
    return {names.get(name, name): array for name, array in weights.items()}


BUILT_IN = {
    "owners, prior": {},
    "clients, no prior": {"mean": "clients", "prior": "none"},
    "lstm": {"cell": "lstm"},
    "proximal": {"prox_mu": 3.0},
    "reversal": {**AGNOSTIC, "agnostic_to": "weekend"},
}


@pytest.mark.parametrize("case", slow_but(BUILT_IN, "owners, prior"))
def test_the_built_in_model_as_ones_own_gives_the_same_numbers(make_task, case):
    given = dict(BUILT_IN[case])
    name = "built_in_lstm" if given.get("cell") == "lstm" else "built_in"
    cell = given.pop("cell", "gru")
    built_in = make_task(**OWN | given, cell=cell)
    own = own_task(make_task, name, **given)
    drawn = protection.init_weights(own)
    translated = as_built_in(drawn, cell)
    assert {n: w.shape for n, w in translated.items()} == {
        n: w.shape for n, w in protection.init_weights(built_in).items()
    }
    found, found_rows = two_rounds(own)
    expected, rows = two_rounds(built_in, start_weights=translated)
    found = as_built_in(found, cell)
    assert largest_gap(expected, translated) > 100  # it has learnt
    assert largest_gap(found, expected) < 0.1
    for row, expected_row in zip(found_rows, rows, strict=True):
        assert row == pytest.approx(expected_row, abs=1e-6)


class ForgetsToReset(ReferenceEngine):
    def _client_update(self, *args):
        self._model.reset_metrics()
        kept, self._keras = self._keras, _WithoutReset(self._keras)
        try:
            return super()._client_update(*args)
        finally:
            self._keras = kept


class _WithoutReset:
    def __init__(self, own):
        self._own = own

    def __getattr__(self, name):
        return (lambda model: None) if name == "reset_state" else getattr(self._own, name)


def test_a_state_that_is_carried_into_the_next_epoch_is_seen(make_task):
    own = own_task(make_task, "built_in", mean="clients")
    expected, _ = two_rounds(own)
    found, _ = two_rounds(own, ForgetsToReset)
    assert largest_gap(found, expected) > 100


def test_without_a_table_all_clients_count_in_every_weight(make_task):
    with_table = own_task(make_task, "built_in", mean="clients", prior="none")
    without = own_task(make_task, "no_table", mean="owners", prior="none")
    drawn = protection.init_weights(with_table)

    def joined(weights):
        kernel = np.concatenate([weights["rows"], weights["rows/gru_cell/kernel"]])
        names = {
            f"rows/gru_cell/{n}": f"recurrent/gru_cell/{n}" for n in ("recurrent_kernel", "bias")
        }
        dense = {
            names.get(n, n): w
            for n, w in weights.items()
            if n not in ("rows", "rows/gru_cell/kernel")
        }
        return dense | {"rows": np.zeros((0, 1), np.float32), "recurrent/gru_cell/kernel": kernel}

    expected, rows = two_rounds(with_table)
    found, found_rows = two_rounds(without, start_weights=joined(drawn))
    assert found.pop("rows").shape == (0, 1)
    assert largest_gap(found, joined(expected)) < 0.1
    assert found_rows[-1] == pytest.approx(rows[-1], abs=1e-6)
    # nothing of it is sparse: each client sends every weight, and no ids
    sent = count_traffic(joined(expected), own_rows(without))
    num_weights = sum(array.size for array in found.values())
    assert set(sent.down_bytes.tolist()) == {4 * num_weights}


def test_a_round_equals_keras_by_hand(make_task):
    """Two clients train in a plain Keras loop, their weights are averaged by their examples."""
    import keras

    # with SGD: where a gradient is almost zero, a step of Adam is a matter of rounding
    given = {"client_optimizer": "sgd", "client_lr": 0.1, "mean": "clients", "prior": "none"}
    task = own_task(make_task, "plain", features="venue,clock", **given)
    weights = protection.init_weights(task)
    cohort, inputs = [0, 5], task.spec.inputs
    trained = []
    for client in cohort:
        data = task.local_data(client)
        model = own_models.plain(inputs)
        kernel = np.concatenate([weights["rows"], weights["rows/embeddings"]])
        rest = [w for n, w in weights.items() if n not in ("rows", "rows/embeddings")]
        model.set_weights([kernel, *rest])
        optimizer = keras.optimizers.SGD(0.1)
        for _ in range(data.passes):
            for layer in model.layers:
                if getattr(layer, "stateful", False):
                    layer.reset_state()
            for step in range(len(data.mask)):
                _keras_step(model, optimizer, task, data, step)
        trained.append((data.num_examples, model.get_weights()))
    total = sum(examples for examples, _ in trained)
    expected = [
        sum(examples / total * arrays[i] for examples, arrays in trained)
        for i in range(len(trained[0][1]))
    ]
    algorithm, state = start(task)
    engine = ReferenceEngine(task)
    after = run_round(engine, algorithm, state, cohort).state.weights
    found = [np.concatenate([after["rows"], after["rows/embeddings"]])]
    found += [w for n, w in after.items() if n not in ("rows", "rows/embeddings")]
    assert trained[0][0] != trained[1][0] and np.abs(after["rows"] - weights["rows"]).max() > 0.01
    for array, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(array, other, atol=2e-6)


def _keras_step(model, optimizer, task, data, step):
    """One step on the mean loss, in plain TensorFlow."""
    import tensorflow as tf

    sizes = list(task.inputs.sizes.values())
    assert len(sizes) == 1
    fed = {"venue": data.rows[step][..., 0] + 1}  # ids begin at 1, unknown is -1 + 1
    fed |= {n: data.numbers[step][..., i] for i, n in enumerate(task.inputs.number_names)}
    with tf.GradientTape() as tape:
        log_probs = tf.nn.log_softmax(model(fed, training=False))
        own = tf.gather(log_probs, data.targets[step], batch_dims=2)
        loss = -tf.reduce_sum(own * data.mask[step]) / data.mask[step].sum()
    variables = model.trainable_variables
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]
    optimizer.apply_gradients(zip(gradients, variables, strict=True))


def test_streamed_predictions_equal_evaluated_ones(make_task):
    task = own_task(make_task, "looked_up")
    draw = np.random.default_rng(0)
    weights = {
        name: draw.normal(0, 0.3, weight.shape).astype(np.float32)
        for name, weight in protection.init_weights(task).items()
    }
    client, engine = 4, ReferenceEngine(task)
    begin, end = task.clients.starts[client : client + 2]
    positions, log_probs = evaluate.model_log_probs(engine, weights, "test")
    of = task.clients.client_of[positions]
    expected = log_probs(client, slice(*np.searchsorted(of, [client, client + 1])))
    first = positions[of == client][0]
    check_ins = check_ins_of(task.check_ins, task.clients.rows[begin:end])
    predictor = Predictor.start(Schema.of(task, weights), weights)
    predictor, found = predictor.extend(check_ins[: first - begin - 1]), []
    for check_in in check_ins[first - begin - 1 : -1]:
        before, predictor = predictor, predictor.push(check_in)
        before.push(check_ins[0].__class__(check_in.user, "elsewhere", check_in.time_s))
        found.append(predictor.log_probs())
    assert np.exp(expected).std(axis=0).max() > 0.001
    np.testing.assert_allclose(np.exp(found), np.exp(expected), atol=1e-5)


def test_all_that_is_carried_can_be_audited(make_task):
    task = own_task(make_task, "looked_up", prior="none")
    weights, engine = protection.init_weights(task), fastest(task)(task)
    assert isinstance(engine, ReferenceEngine)
    starts, ends = task.clients.starts[:-1], task.clients.starts[1:]
    wanted = np.arange(0, int(ends[-1]), 3)
    states = engine.hidden_states(weights, starts, ends, wanted)
    carried = engine.hidden_states(weights, starts, ends, wanted, carried=True)
    width = 5 + task.num_classes  # the representation, and the scores
    assert states.shape == (len(wanted), width)
    assert carried.shape == (len(wanted), width + 7 + 2 * 5)  # a GRU of 7, an LSTM of 5
    np.testing.assert_allclose(carried[:, :width], states, atol=1e-5)
    plan = audit.AuditPlan(("logistic",), controls=False)
    found, _ = audit.audit_task(engine, weights, "weekend", plan)
    views = {reading.view for reading in found.readings}
    assert views == {"representation", "logits", "raw input", "carried state"}
    assert set(audit.quick_audit(engine, weights)) == {"client", "zone"}


@pytest.mark.slow
def test_each_client_can_fine_tune_it(make_task):
    task = own_task(make_task, "built_in", mean="clients")
    built_in = make_task(**OWN, mean="clients")
    weights = protection.init_weights(task)
    found = evaluate_fine_tuned(task, weights, 1, 0)
    expected = evaluate_fine_tuned(built_in, as_built_in(weights), 1, 0)
    assert found.summary() == pytest.approx(expected.summary(), abs=1e-5)


def test_a_penalty_that_moves_the_rows_of_others_is_refused(make_task):
    task = own_task(make_task, "shrinking", features="venue", prior="none")
    algorithm, state = start(task)
    with pytest.raises(TrainingError) as error:
        run_round(ReferenceEngine(task), algorithm, state, [3])
    assert str(error.value) == (
        f"client {task.clients.client_ids[3]} moved rows of ids that it does not have. Let only "
        "look-ups read the table (the layer rows): no penalty for its weights, no noise."
    )


def test_dropout_is_drawn_by_round_and_differs_between_layers(make_task):
    task = own_task(make_task, "looked_up", prior="none")
    weights, engine = protection.init_weights(task), ReferenceEngine(task)
    first, again, second = (
        next(engine.local_updates(weights, [0], number)).loss_sum for number in (1, 1, 2)
    )
    assert first == again != second
    states = [v.numpy().tolist() for v in engine._model.variables if "seed_gen" in v.path]
    assert len(states) >= 2 and len({state[1] - len(states) for state in states}) == len(states)


def test_its_speed_is_reported_before_round_one(make_task, caplog):
    caplog.set_level("INFO")
    task = own_task(make_task, "memoryless", clients_per_round=2)
    algorithm, state = start(task)
    engine = ReferenceEngine(task)
    expected = run_round(engine, algorithm, state, COHORT).state.weights
    engine = ReferenceEngine(task)
    engine.report_speed()
    warning, line = (record.getMessage() for record in caplog.records)
    assert warning == (
        "`model` tests.own_models:memoryless carries nothing from one check-in to the next: it "
        "predicts from the last check-in alone"
    )
    step_ms, total_s, steps = map(
        float,
        re.fullmatch(
            r"`model` tests.own_models:memoryless: ([\d.e+]+) ms for a local step, so ([\d.]+) s "
            r"for the about (\d+) local steps of a round; validation comes on top",
            line,
        ).groups(),
    )
    data = [task.local_data(int(client)) for client in task.training_clients]
    assert steps == round(2 * np.mean([one.passes * len(one.mask) for one in data]))
    assert total_s == pytest.approx(step_ms / 1000 * steps, abs=0.06)
    found = run_round(engine, algorithm, state, COHORT).state.weights
    for name, array in expected.items():  # the measured steps leave nothing behind
        np.testing.assert_array_equal(found[name], array)


def test_other_engines_refuse_it(make_task):
    settings = own_task(make_task, "memoryless", threads=None).settings
    registry.check(settings)
    for engine in ("jax", "ray", "tff"):
        loop = settings.loop.model_copy(update={"engine": engine})
        with pytest.raises(ConfigError) as error:
            registry.check(settings.model_copy(update={"loop": loop}))
        assert str(error.value) == (
            f"`engine` {engine} does not know `model`. Use `engine` reference, or leave `model` "
            "out."
        )


@pytest.mark.parametrize("name", ["cell", "hidden_dim", "dropout"])
def test_sizes_of_the_built_in_model_have_no_effect(make_task, name):
    value = {"cell": "lstm", "hidden_dim": 8, "dropout": 0.1}[name]
    given = {"hidden_dim": 256, "dropout": 0.3} | {name: value}
    with pytest.raises(ConfigError) as error:
        make_task(model="tests.own_models:memoryless", **given)
    assert str(error.value) == (
        f"`{name}` has no effect with `model` tests.own_models:memoryless, whose function decides "
        "it. Leave one of them out."
    )
