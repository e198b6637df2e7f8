"""fedgru/models: the pure model, its hand-written backward pass, and the stock Keras model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedgru.core import seeding
from fedgru.models import gru, keras_gru
from fedgru.models.cells import CELLS


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def random_cell(cell, hidden_dim, seq_len, batch, seed=0):
    rng = np.random.default_rng(seed)
    gates_dim = CELLS[cell].num_gates * hidden_dim
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    bias = draw(*CELLS[cell].start_bias(hidden_dim).shape)
    state = tuple(draw(batch, hidden_dim) for _ in range(CELLS[cell].num_states))
    return draw(seq_len, batch, gates_dim), draw(hidden_dim, gates_dim), bias, state


def test_gru_step_by_hand():
    # one unit, h = 0.5, inputs' share z 0.1, r 0.2, candidate 0.3; recurrent weights 1, 2, 3 and
    # recurrent biases 0.01, 0.02, 0.03. Reset AFTER the product: the bias 0.03 is scaled by r too
    z = sigmoid(0.1 + 0.5 * 1 + 0.01)
    r = sigmoid(0.2 + 0.5 * 2 + 0.02)
    candidate = np.tanh(0.3 + r * (0.5 * 3 + 0.03))
    expected = z * 0.5 + (1 - z) * candidate
    hidden, (last,) = gru.recur(
        "gru",
        np.array([[[0.1, 0.2, 0.3]]], np.float32),
        np.array([[1, 2, 3]], np.float32),
        np.array([[0, 0, 0], [0.01, 0.02, 0.03]], np.float32),
        (np.array([[0.5]], np.float32),),
    )
    assert hidden.item() == pytest.approx(expected, abs=1e-6)
    assert last.item() == pytest.approx(expected, abs=1e-6)


def test_lstm_step_by_hand():
    # gates' order in Keras: input, forget, candidate, output
    i, f, o = sigmoid(0.1 + 0.5), sigmoid(0.2 + 1.0), sigmoid(0.4 + 2.0)
    memory = f * 0.7 + i * np.tanh(0.3 + 1.5)
    hidden, (last, after) = gru.recur(
        "lstm",
        np.array([[[0.1, 0.2, 0.3, 0.4]]], np.float32),
        np.array([[1, 2, 3, 4]], np.float32),
        np.zeros(4, np.float32),
        (np.array([[0.5]], np.float32), np.array([[0.7]], np.float32)),
    )
    assert after.item() == pytest.approx(memory, abs=1e-6)
    assert hidden.item() == last.item() == pytest.approx(o * np.tanh(memory), abs=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_backward_pass_equals_automatic_differentiation(cell):
    gates, recurrent, bias, state = random_cell(cell, hidden_dim=5, seq_len=4, batch=3)
    weight = np.random.default_rng(1).normal(size=(4, 3, 5)).astype(np.float32)
    advance = CELLS[cell].advance

    def plain(gates, recurrent, bias, state):
        hidden = []
        for gates_t in gates:
            pulled = state[0] @ recurrent + (bias[1] if bias.ndim == 2 else 0.0)
            state, _ = advance(gates_t + (bias[0] if bias.ndim == 2 else bias), pulled, state)
            hidden.append(state[0])
        return jnp.stack(hidden), state

    def scalar(run):
        def value(*args):
            hidden, last = run(*args)
            return (hidden * weight).sum() + sum((2 * s * weight[0]).sum() for s in last)

        return value

    args = (gates, recurrent, bias, state)
    expected = jax.grad(scalar(plain), (0, 1, 2, 3))(*args)
    found = jax.grad(scalar(lambda *a: gru.recur(cell, *a)), (0, 1, 2, 3))(*args)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, expected)


@pytest.mark.parametrize("cell", CELLS)
def test_streams_carried_step_by_step_equal_one_long_pass(cell):
    gates, recurrent, bias, state = random_cell(cell, hidden_dim=5, seq_len=9, batch=3)
    whole, last = gru.recur(cell, gates, recurrent, bias, state)
    parts = []
    for part in (gates[:4], gates[4:5], gates[5:]):
        hidden, state = gru.recur(cell, part, recurrent, bias, state)
        parts.append(hidden)
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)
    np.testing.assert_allclose(state[0], last[0], atol=1e-6)


def test_look_up_equals_one_hot_times_kernel_with_dropout():
    rng = np.random.default_rng(0)
    rows = np.array([[[0, 2], [1, -1]], [[0, 3], [-1, 3]]], np.int32)  # [seq, batch, features]
    numbers = rng.normal(size=(2, 2, 1)).astype(np.float32)
    kernel = rng.normal(size=(5, 6)).astype(np.float32)
    kept = np.array([[1, 0, 1, 0, 1], [1, 1, 0, 1, 0]], np.float32) / 0.6  # [batch, inputs]
    one_hot = np.zeros((2, 2, 5), np.float32)
    for t, b, f in np.ndindex(2, 2, 2):
        if rows[t, b, f] >= 0:
            one_hot[t, b, rows[t, b, f]] += 1
    one_hot[..., 4] = numbers[..., 0]
    found = gru.project(
        {"rows": kernel[:4], "numbers": kernel[4:]}, rows, numbers, kept[:, :4], kept[:, 4:]
    )
    np.testing.assert_allclose(found, (one_hot * kept) @ kernel, atol=1e-6)


@pytest.mark.parametrize("prior", ["none", "backoff"])
@pytest.mark.parametrize("cell", CELLS)
def test_keras_model_gives_equal_log_probabilities_with_its_state_carried(make_task, cell, prior):
    task = make_task(cell=cell, prior=prior, features="big")
    weights = gru.init_weights(task.spec, seeding.rng(3, "weights"))
    rng = np.random.default_rng(4)
    # NumPy 1 makes a float64 of 0.1 times the float32 that is drawn for a weight without axes
    noise = {k: rng.normal(0, 0.1, w.shape) for k, w in weights.items()}
    weights = {k: w + np.float32(noise[k]) for k, w in weights.items()}
    model = keras_gru.build(task.spec, task.inputs, batch_size=2, seq_len=5)
    keras_gru.set_weights(model, weights)
    data = task.local_data(0)
    assert len(data.mask) > 1 and (data.rows[:, :, :, 2] < 0).any()  # two steps, some unknown
    state = gru.zero_state(cell, task.spec.hidden_dim, 2)
    for step in range(len(data.mask)):
        log_prior = None if data.beside is None else data.beside[step]
        # called, not `predict`: on Keras' JAX backend only a call carries the state on
        probs = model(keras_gru.feed(task.inputs, data.rows[step], data.numbers[step], log_prior))
        gates = gru.project(
            weights, data.rows[step].swapaxes(0, 1), data.numbers[step].swapaxes(0, 1)
        )
        hidden, state = gru.recur(cell, gates, weights["recurrent"], weights["bias"], state)
        scores = gru.logits(weights, np.swapaxes(hidden, 0, 1), log_prior)
        np.testing.assert_allclose(np.log(np.asarray(probs)), jax.nn.log_softmax(scores), atol=1e-5)
    for name, array in keras_gru.get_weights(model, task.spec.num_rows).items():
        np.testing.assert_array_equal(array, weights[name])


def test_start_weights_follow_keras(make_task):
    # Glorot uniform: limit sqrt(6 / (fan_in + fan_out)), deviation limit / sqrt(3)
    spec = make_task(hidden_dim=64, cell="lstm").spec
    weights = gru.init_weights(spec, seeding.rng(0, "weights"))
    limit = np.sqrt(6 / (64 + 4 * 64))
    assert np.abs(weights["recurrent"]).max() == pytest.approx(limit, rel=1e-3)
    assert weights["recurrent"].std() == pytest.approx(limit / np.sqrt(3), rel=0.02)
    kernel_limit = np.sqrt(6 / (spec.num_rows + spec.num_numbers + 4 * 64))
    assert np.abs(weights["rows"]).max() == pytest.approx(kernel_limit, rel=1e-3)
    np.testing.assert_array_equal(np.unique(weights["bias"][64:128]), [1.0])  # forget gate
    assert not weights["bias"][:64].any() and not weights["bias"][128:].any()


@pytest.mark.parametrize("cell", CELLS)
def test_time_steps_behind_the_length_are_as_if_they_were_not_there(cell):
    gates, recurrent, bias, state = random_cell(cell, hidden_dim=3, seq_len=5, batch=2)
    weigh = np.random.default_rng(1).normal(size=(5, 2, 3)).astype(np.float32)

    def loss(gates, recurrent, bias, state, length):
        hidden, last = gru.recur(cell, gates, recurrent, bias, state, length)
        return (hidden * weigh[: len(gates)]).sum() + sum((s**2).sum() for s in last), hidden

    grad = jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)
    expected, expected_hidden = grad(gates[:3], recurrent, bias, state, None)
    for found_by in (grad, jax.jit(grad)):  # the length may be known only when it runs
        found, hidden = found_by(gates, recurrent, bias, state, 3)
        np.testing.assert_allclose(hidden[:3], expected_hidden, atol=1e-6)
        assert not np.any(hidden[3:]) and not np.any(found[0][3:])
        np.testing.assert_allclose(found[0][:3], expected[0], atol=1e-6)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            found[1:],
            expected[1:],
        )


@pytest.mark.parametrize("columns", [0, 1, 4])  # 0: no feature is a number
def test_affine_equals_automatic_differentiation(columns):
    rng = np.random.default_rng(0)
    x, kernel = (
        rng.normal(size=size).astype("float32") for size in ((3, 2, columns), (columns, 5))
    )
    weight = rng.normal(size=(3, 2, 5)).astype("float32")
    found, expected = (
        jax.grad(lambda x, kernel, by=by: (by(x, kernel) * weight).sum(), argnums=(0, 1))(x, kernel)
        for by in (gru.affine, lambda x, kernel: x @ kernel)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
