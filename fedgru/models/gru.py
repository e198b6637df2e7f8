"""The recurrent model as pure functions of its weights, for the fast engine.

logits = head(recur(table[rows] + numbers @ kernel + bias)) + prior_scale * log p(next)

Weights are a dict of float32 arrays, G gates: 3 for a GRU, 4 for an LSTM (`fedgru.models.cells`):

    rows [num_rows, G * hidden_dim]      kernel rows of the one-hot inputs, one per known value
    numbers [num_numbers, G * hidden_dim]  kernel rows of the number inputs
    recurrent [hidden_dim, G * hidden_dim]
    bias [2, G * hidden_dim] for a GRU (input, recurrent), [G * hidden_dim] for other cells
    head_kernel [hidden_dim, num_classes], head_bias [num_classes]
    prior_scale [], only with a personal prior
    protected_..., erase_..., noise_scale: only with a protected concept
    (fedgru/agnostic/protection.py)

`rows` and `numbers`, stacked, are the `kernel` of the stock Keras layer; every other array equals
Keras' array.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedgru.core.types import AnyArray, AnyWeights, Floats, Weights
from fedgru.models.cells import CELLS, Arrays, State


@dataclass(frozen=True)
class ModelSpec:
    """Everything that determines the shapes of the weights and the forward pass."""

    cell: str
    num_rows: int
    num_numbers: int
    hidden_dim: int
    num_classes: int
    dropout: float
    has_prior: bool

    @property
    def gates_dim(self) -> int:
        return CELLS[self.cell].num_gates * self.hidden_dim

    @property
    def states_dim(self) -> int:
        """Columns of what an engine's `hidden_states` gives."""
        return self.hidden_dim

    def init_weights(self, rng: np.random.Generator) -> Weights:
        """Return start weights, name -> float32 array; see the function `init_weights`."""
        return init_weights(self, rng)

    def representation(self, states: Floats) -> Floats:
        """Return the representation in what `hidden_states` gives, float32 [..., hidden_dim]."""
        return states

    def carried(self, states: Floats) -> Floats:
        """Return what is kept between check-ins, of what `hidden_states` gives with `carried`."""
        return states

    def logits(self, weights: AnyWeights, states: Floats, beside: Any = None) -> AnyArray:
        """Return float32 [..., num_classes], the scores; see the function `logits`.

        Args:
            weights: name -> float32 array.
            states: float32 [..., states_dim], erased and with noise where the method does so.
            beside: what the head reads beside the states, see `Task.beside`: here the log prior,
                float32 [..., num_classes], or None without a prior.
        """
        return logits(weights, states, beside, np.matmul)

    def at_targets(
        self, weights: AnyWeights, hidden: AnyArray, beside: Any, targets: AnyArray, key: AnyArray
    ) -> tuple[AnyArray, AnyArray]:
        """Return log p(target) and 1 where the target is ranked first, both float32 [...].

        In JAX, with a gradient; what training calls.

        Args:
            weights: name -> float32 array.
            hidden: float32 [..., hidden_dim], from `represent`.
            beside: as in LocalData.
            targets: int32 [...].
            key: for what is random in the head.
        """
        import jax
        import jax.numpy as jnp

        scores = logits(weights, hidden, beside)
        at_target = jnp.take_along_axis(jax.nn.log_softmax(scores), targets[..., None], -1)[..., 0]
        return at_target, scores.argmax(-1) == targets


def init_weights(spec: ModelSpec, rng: np.random.Generator) -> Weights:
    """Draw start weights from Keras' default distributions, except for the recurrent kernel.

    Glorot uniform for kernel, recurrent kernel and head; zero biases, except ones for the LSTM's
    forget gate; scale 1 for the prior.

    Args:
        spec: ModelSpec.
        rng: numpy Generator.

    Returns:
        dict of float32 arrays, see the module's docstring.
    """
    weights = init_cell(spec, rng) | {
        "head_kernel": _glorot_uniform(rng, spec.hidden_dim, spec.num_classes),
        "head_bias": np.zeros(spec.num_classes, np.float32),
    }
    if spec.has_prior:
        weights["prior_scale"] = np.ones((), np.float32)
    return weights


def init_cell(spec: ModelSpec, rng: np.random.Generator) -> Weights:
    """Draw the start weights of the recurrent layer; see `init_weights`."""
    kernel = _glorot_uniform(rng, spec.num_rows + spec.num_numbers, spec.gates_dim)
    return {
        "rows": kernel[: spec.num_rows],
        "numbers": kernel[spec.num_rows :],
        "recurrent": _glorot_uniform(rng, spec.hidden_dim, spec.gates_dim),
        "bias": CELLS[spec.cell].start_bias(spec.hidden_dim),
    }


def _glorot_uniform(rng: np.random.Generator, fan_in: int, fan_out: int) -> Floats:
    limit = np.sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, (fan_in, fan_out)).astype(np.float32)


def zero_state(cell: str, hidden_dim: int, batch: int) -> State:
    """Return the state before the first check-in: (h,) for a GRU, (h, c) for an LSTM.

    Each is float32 [batch, hidden_dim].
    """
    import jax.numpy as jnp

    return tuple(jnp.zeros((batch, hidden_dim), jnp.float32) for _ in range(CELLS[cell].num_states))


def project(
    weights: AnyWeights,
    rows: AnyArray,
    numbers: AnyArray,
    row_scale: AnyArray | None = None,
    number_scale: AnyArray | None = None,
) -> AnyArray:
    """Return the inputs' part of the gates, float32 [seq_len, batch, G * hidden_dim].

    A one-hot vector times a kernel is a row of the kernel, so rows are looked up.

    Args:
        weights: dict; its `rows` can be any table that the argument `rows` indexes.
        rows: int32 [seq_len, batch, num_id_features]; -1 is unknown and adds nothing.
        numbers: float32 [seq_len, batch, num_numbers].
        row_scale: float32 [batch, num_rows] or None: dropout's factor for each one-hot input
            of each sequence.
        number_scale: float32 [batch, num_numbers] or None: the same for the numbers.
    """
    import jax.numpy as jnp

    if number_scale is not None:
        numbers = numbers * number_scale
    gates = affine(numbers, weights["numbers"])
    if rows.shape[-1]:
        known = (rows >= 0).astype(jnp.float32)
        found = jnp.maximum(rows, 0)
        if row_scale is not None:
            seq_len, batch, _ = rows.shape
            scale = jnp.broadcast_to(row_scale, (seq_len, batch, row_scale.shape[-1]))
            known = known * jnp.take_along_axis(scale, found, axis=2)
        for column in range(rows.shape[-1]):  # add up, so that memory holds one look-up at a time
            gates = gates + known[..., column, None] * weights["rows"][found[..., column]]
    return gates


def affine(x: AnyArray, kernel: AnyArray) -> AnyArray:
    """Return x @ kernel, with gradients in the memory layout of XLA's fast CPU products.

    JAX's own gradient of a narrow kernel is a transposed copy and a slow product.

    Args:
        x: float32 [..., n].
        kernel: float32 [n, m].
    """
    import jax

    def backward(kept: tuple[AnyArray, AnyArray], d_out: AnyArray) -> tuple[AnyArray, AnyArray]:
        x, kernel = kept
        flat = d_out.reshape(-1, d_out.shape[-1])
        x = x.reshape(len(flat), x.shape[-1])  # no columns if there are no number features
        d_kernel = jax.lax.dot_general(x, flat, (((0,), (0,)), ((), ())))
        return (flat @ kernel.T).reshape(*d_out.shape[:-1], len(kernel)), d_kernel

    product = jax.custom_vjp(lambda x, kernel: x @ kernel)
    product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), backward)
    return product(x, kernel)


def recur(
    cell: str,
    gates: AnyArray,
    recurrent: AnyArray,
    bias: AnyArray,
    state: State,
    length: AnyArray | None = None,
) -> tuple[AnyArray, State]:
    """Run the cell over a sequence.

    The backward pass is explicit. Its loop holds one product and what each step needs from the
    next. Before the loop, the derivatives of the gates are computed for all time steps at once.
    After it, the gradient of `recurrent` is one product over all time steps.

    Args:
        cell: name of one of CELLS.
        gates: float32 [seq_len, batch, G * hidden_dim], the inputs' part.
        recurrent, bias: the weights of these names.
        state: as from `zero_state`.
        length: int [], time steps to run, all if None. Later steps are padding in every row:
            `hidden` is zero there, and they give no gradient.

    Returns:
        hidden float32 [seq_len, batch, hidden_dim], and the state after the last step.
    """
    import jax
    import jax.numpy as jnp

    kind = CELLS[cell]
    gates, recurrent_bias = kind.split_bias(gates, bias)
    gates = jnp.asarray(gates)
    if not len(gates):
        return jnp.zeros((0, *state[0].shape)), state
    length = len(gates) if length is None else length

    def forward(
        gates: AnyArray,
        recurrent: AnyArray,
        recurrent_bias: AnyArray,
        state: State,
        length: AnyArray,
    ) -> tuple[Any, Any]:
        def step(t: AnyArray, carried: Any) -> Any:
            state, kept, after = carried
            t = _unsigned(t)
            state, kept_t = kind.advance(gates[t], state[0] @ recurrent + recurrent_bias, state)
            return state, _put(kept, t, kept_t), _put(after, t, state)

        def over_time(arrays: Any) -> Arrays:
            return tuple(jnp.zeros((len(gates), *a.shape), a.dtype) for a in arrays)

        one = jax.ShapeDtypeStruct(gates.shape[1:], gates.dtype)
        _, kept_shapes = jax.eval_shape(kind.advance, one, one, state)
        last, kept, after = jax.lax.fori_loop(
            0, length, step, (state, over_time(kept_shapes), over_time(state))
        )
        before = tuple(
            jnp.concatenate([s[None], a[:-1]]) for s, a in zip(state, after, strict=True)
        )
        return (after[0], last), (recurrent, kept, before, length)

    def backward(kept: Any, cotangents: Any) -> tuple[Any, ...]:
        recurrent, kept, before, length = kept
        d_hidden, d_last = cotangents
        recurrent_t = recurrent.T
        saved = kind.derive(kept, before)

        def step(i: AnyArray, carried: Any) -> Any:
            d_state, d_states = carried
            t = _unsigned(length - 1 - i)
            d_state = (d_state[0] + d_hidden[t], *d_state[1:])
            d_states = _put(d_states, t, d_state)
            _, d_pulled_t, d_before = kind.pull_back(tuple(s[t] for s in saved), d_state)
            return (d_before[0] + d_pulled_t @ recurrent_t, *d_before[1:]), d_states

        d_states = tuple(jnp.zeros_like(s) for s in before)
        d_state, d_states = jax.lax.fori_loop(0, length, step, (d_last, d_states))
        d_gates, d_pulled, _ = kind.pull_back(saved, d_states)
        flat = d_pulled.reshape(-1, d_pulled.shape[-1])
        d_recurrent = jax.lax.dot_general(
            before[0].reshape(len(flat), -1), flat, (((0,), (0,)), ((), ()))
        )
        return d_gates, d_recurrent, flat.sum(0), d_state, None

    run = jax.custom_vjp(lambda *args: forward(*args)[0])
    run.defvjp(forward, backward)
    return run(gates, recurrent, recurrent_bias, state, length)


def _unsigned(t: AnyArray) -> AnyArray:
    """Make an index unsigned; for a signed index JAX checks at each use whether it is negative."""
    import jax.numpy as jnp

    return jnp.uint32(t)


def _put(arrays: Arrays, t: AnyArray, values: Arrays) -> Arrays:
    """Write a step's values into arrays of all time steps."""
    return tuple(array.at[t].set(value) for array, value in zip(arrays, values, strict=True))


def forward(
    cell: str, gates: AnyArray, recurrent: AnyArray, bias: AnyArray, state: State, starts: AnyArray
) -> tuple[AnyArray, State, Arrays]:
    """Run the cell over rows that hold one sequence after another, without a backward pass.

    Args:
        cell, gates, recurrent, bias, state: as for `recur`.
        starts: bool [seq_len, batch], where a new sequence starts: the state before it is zero.

    Returns:
        float32 [seq_len, batch, parts * hidden_dim], all parts of the state after each step, the
        hidden state first; the state after the last step; and the gates of the last step. A
        compiled caller must return these too: that halves the time, see `fedgru.models.cells`.
    """
    import jax
    import jax.numpy as jnp

    advance = CELLS[cell].advance
    gates, recurrent_bias = CELLS[cell].split_bias(gates, bias)

    def step(carried: Any, at_t: tuple[AnyArray, AnyArray]) -> Any:
        state, _ = carried
        gates_t, starts_t = at_t
        state = tuple(jnp.where(starts_t[:, None], 0.0, s) for s in state)
        after, kept = advance(gates_t, state[0] @ recurrent + recurrent_bias, state)
        return (after, kept), jnp.concatenate(after, axis=-1)

    pulled = jax.ShapeDtypeStruct(gates.shape[1:], gates.dtype)
    _, shapes = jax.eval_shape(advance, pulled, pulled, state)
    kept = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    (last, kept), states = jax.lax.scan(step, (state, kept), (gates, starts))
    return states, last, kept


def represent(weights: AnyWeights, hidden: AnyArray, noise: AnyArray | None = None) -> AnyArray:
    """Return the representation of hidden states, the heads' input: erased and with noise.

    Args:
        weights: dict. With `erase_mean` [hidden_dim] and `erase_removed` [hidden_dim, hidden_dim]
            a concept is erased; with `noise_scale` [] noise times this scale is added.
        hidden: float32 [..., hidden_dim].
        noise: float32 of the shape of `hidden`, standard normal; needed with `noise_scale`.
    """
    if "erase_removed" in weights:
        hidden = hidden - (hidden - weights["erase_mean"]) @ weights["erase_removed"]
    if "noise_scale" in weights:
        hidden = hidden + weights["noise_scale"] * noise
    return hidden


def logits(
    weights: AnyWeights,
    hidden: AnyArray,
    log_prior: AnyArray | None = None,
    product: Callable[[AnyArray, AnyArray], AnyArray] = affine,
) -> AnyArray:
    """Return float32 [..., num_classes]: the head's output plus the scaled log prior.

    Args:
        weights: dict.
        hidden: float32 [..., hidden_dim], from `represent`.
        log_prior: float32 [..., num_classes], or None without a prior.
        product: `affine`, or numpy.matmul for NumPy arrays without a gradient.
    """
    scores = product(hidden, weights["head_kernel"]) + weights["head_bias"]
    return scores if log_prior is None else scores + weights["prior_scale"] * log_prior
