"""The recurrent cells: a step, its derivatives, and the equal stock Keras layer.

The GRU is the reset-after variant (Cho et al. 2014 as computed by cuDNN), gates in Keras' order:
update z, reset r, candidate. LSTM: input, forget, candidate, output.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from fedgru.core.types import AnyArray, Floats

Arrays: TypeAlias = tuple[AnyArray, ...]
State: TypeAlias = Arrays  # (h,) of a GRU, (h, c) of an LSTM


@dataclass(frozen=True)
class Cell:
    """A recurrent cell. `fedgru.models.gru` runs it over a sequence.

    In the functions `dim` is hidden_dim, and `pulled` is the part of the gates from the state
    before the step: h @ recurrent + the recurrent bias, float32 [batch, num_gates * dim].

    Attributes:
        name: value of the setting `cell`.
        keras_layer: class in keras.layers whose weights are `kernel`, `recurrent` and `bias`.
        num_gates: G, blocks of dim in kernel, recurrent and bias.
        num_states: number of state arrays, float32 [batch, dim]; the hidden state h is the first.
        start_bias: start_bias(dim) returns the bias before training.
        split_bias: split_bias(gates, bias) returns the gates with the inputs' bias added, and the
            recurrent bias.
        advance: advance(gates, pulled, state) returns the state after a step, and a tuple of the
            values that `derive` needs.
        derive: derive(kept, state) returns the derivatives of a step that `pull_back` needs, from
            the values of `advance` and the state before the step.
        pull_back: pull_back(saved, d_state) returns the gradients by gates, by pulled, and by the
            state before the step, without its effect through `pulled`.

    `derive` and `pull_back` are also called for all time steps at once: their arrays can have a
    leading axis of time steps.
    """

    name: str
    keras_layer: str
    num_gates: int
    num_states: int
    start_bias: Callable[[int], Floats]
    split_bias: Callable[[AnyArray, AnyArray], tuple[AnyArray, AnyArray]]
    advance: Callable[[AnyArray, AnyArray, State], tuple[State, Arrays]]
    derive: Callable[[Arrays, State], Arrays]
    pull_back: Callable[[Arrays, State], tuple[AnyArray, AnyArray, State]]


def one_bias(gates: AnyArray, bias: AnyArray) -> tuple[AnyArray, AnyArray]:
    """`Cell.split_bias` of a cell whose bias is float32 [num_gates * dim], with the inputs."""
    return gates + bias, 0.0 * bias


def two_biases(gates: AnyArray, bias: AnyArray) -> tuple[AnyArray, AnyArray]:
    """`Cell.split_bias` of a cell whose bias is float32 [2, num_gates * dim]: input, recurrent."""
    return gates + bias[0], bias[1]


# XLA fuses values that are used once into one loop. It does not vectorize a loop with two
# exponentials or tangents: ten times as slow. The values that `_advance_...` keeps are used twice,
# so XLA computes them in a separate loop.


def _advance_gru(gates: AnyArray, pulled: AnyArray, state: State) -> tuple[State, Arrays]:
    """Run one step, with `gates` from the inputs and `pulled` from the state.

    Returns:
        The state after the step, and the values that `_derive_gru` needs.
    """
    import jax
    import jax.numpy as jnp

    (before,) = state
    dim = before.shape[-1]
    update_reset = jax.nn.sigmoid(gates[:, : 2 * dim] + pulled[:, : 2 * dim])
    update, reset = update_reset[:, :dim], update_reset[:, dim:]
    candidate_h = pulled[:, 2 * dim :]
    candidate = jnp.tanh(gates[:, 2 * dim :] + reset * candidate_h)
    after = update * before + (1.0 - update) * candidate
    return (after,), (update_reset, candidate, candidate_h)


def _derive_gru(kept: Arrays, state: State) -> Arrays:
    """Return what the backward pass needs: the derivatives of the state after a step."""
    import jax.numpy as jnp

    update_reset, candidate, candidate_h = kept
    (before,) = state
    update, reset = jnp.split(update_reset, 2, axis=-1)
    by_update = (before - candidate) * update * (1.0 - update)
    by_candidate = (1.0 - update) * (1.0 - candidate * candidate)
    by_reset = by_candidate * candidate_h * reset * (1.0 - reset)
    by_pulled = jnp.concatenate([by_update, by_reset, by_candidate * reset], axis=-1)
    return update, by_candidate, by_pulled


def _pull_back_gru(saved: Arrays, d_state: State) -> tuple[AnyArray, AnyArray, State]:
    """Return the gradients of `_advance_gru` by gates, pulled and state."""
    import jax.numpy as jnp

    update, by_candidate, by_pulled = saved
    (d_after,) = d_state
    d_pulled = jnp.concatenate([d_after] * 3, axis=-1) * by_pulled
    in_both = d_pulled[..., : 2 * update.shape[-1]]
    d_gates = jnp.concatenate([in_both, d_after * by_candidate], axis=-1)
    return d_gates, d_pulled, (d_after * update,)


def _open_forget_gate(dim: int) -> Floats:
    """Return the LSTM's bias before training, float32 [4 * dim]: 1 for the forget gate, else 0."""
    bias = np.zeros(4 * dim, np.float32)
    bias[dim : 2 * dim] = 1.0
    return bias


def _advance_lstm(gates: AnyArray, pulled: AnyArray, state: State) -> tuple[State, Arrays]:
    """As `_advance_gru`, for an LSTM."""
    import jax
    import jax.numpy as jnp

    _, memory = state
    admit, forget, candidate, show = jnp.split(gates + pulled, 4, axis=-1)
    admit, forget, show = jax.nn.sigmoid(admit), jax.nn.sigmoid(forget), jax.nn.sigmoid(show)
    candidate = jnp.tanh(candidate)
    after = forget * memory + admit * candidate
    shown = jnp.tanh(after)
    return (show * shown, after), (admit, forget, candidate, show, shown)


def _derive_lstm(kept: Arrays, state: State) -> Arrays:
    """As `_derive_gru`, for an LSTM."""
    _, memory = state
    return (memory, *kept)


def _pull_back_lstm(saved: Arrays, d_state: State) -> tuple[AnyArray, AnyArray, State]:
    """Return the gradients of `_advance_lstm` by gates, pulled and state."""
    import jax.numpy as jnp

    memory, admit, forget, candidate, show, shown = saved
    d_hidden, d_after = d_state
    d_after = d_after + d_hidden * show * (1.0 - shown * shown)
    d_gates = jnp.concatenate(
        [
            d_after * candidate * admit * (1.0 - admit),
            d_after * memory * forget * (1.0 - forget),
            d_after * admit * (1.0 - candidate * candidate),
            d_hidden * shown * show * (1.0 - show),
        ],
        axis=-1,
    )
    # the hidden state acts only through `pulled`
    return d_gates, d_gates, (jnp.zeros_like(d_hidden), d_after * forget)


GRU = Cell(
    name="gru",
    keras_layer="GRU",
    num_gates=3,
    num_states=1,
    start_bias=lambda dim: np.zeros((2, 3 * dim), np.float32),
    split_bias=two_biases,
    advance=_advance_gru,
    derive=_derive_gru,
    pull_back=_pull_back_gru,
)
LSTM = Cell(
    name="lstm",
    keras_layer="LSTM",
    num_gates=4,
    num_states=2,
    start_bias=_open_forget_gate,
    split_bias=one_bias,
    advance=_advance_lstm,
    derive=_derive_lstm,
    pull_back=_pull_back_lstm,
)
CELLS = {cell.name: cell for cell in (GRU, LSTM)}
