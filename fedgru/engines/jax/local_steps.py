"""The compiled loop over local steps: truncated backpropagation, the state carried on. JAX."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from fedgru.agnostic.protection import Protection
from fedgru.algorithms.client_rule import ClientRule
from fedgru.engines.jax.prepared import Arrays
from fedgru.models import gru
from fedgru.models.gru import ModelSpec
from fedgru.models.optimizers import local_step

JaxWeights: TypeAlias = dict[str, Any]  # name of a weight -> its jax.Array, or NumPy's


class Steps(NamedTuple):
    """The local steps to run, and the data that they go through. A tree of arrays for JAX.

    Attributes:
        arrays: rows, numbers, targets, mask, beside, protected of a LocalData, each [steps,
            seq_len, batch, ...]; the last two may be None.
        key: uint32 [2], words of the random key of dropout and noise.
        steps_per_pass: int [], the steps of `arrays` that one pass goes through.
        num_steps: int [], steps of all passes.
        constants: see `Protection.before_round`.
        resets: bool [steps, batch], the rows whose state is zero before a step; None for all of
            them at the start of a pass and at no other step.
        first_step: int [], the optimizer's count of the first step.
        at_most: int [], for a stack of clients (`jax.vmap`): the largest num_steps of them. The
            loop runs this many steps, and a client that is done does not change any more.
        offset, anchor: see ClientStart, with `rows` padded like those of the weights; or None.
    """

    arrays: Any
    key: Any
    steps_per_pass: Any
    num_steps: Any
    constants: Mapping[str, Any] | None = None
    resets: Any = None
    first_step: Any = 1
    at_most: Any = None
    offset: JaxWeights | None = None
    anchor: JaxWeights | None = None


def run_steps(
    spec: ModelSpec,
    protection: Protection | None,
    rule: ClientRule,
    weights: JaxWeights,
    slots: tuple[JaxWeights, ...],
    steps: Steps,
) -> tuple[JaxWeights, tuple[JaxWeights, ...], Any]:
    """Run local steps, one after the other.

    Args:
        spec: ModelSpec; its number of rows is not used.
        protection: Protection, or None.
        rule: ClientRule; its number of epochs is not used.
        weights: name -> float32 array; `rows` may be padded.
        slots: the optimizer's, see `init_slots`.
        steps: Steps.

    Returns:
        (weights, slots, sums); the sums, float32 [5]: loss in nats and correct answers, then as
        in `ClientUpdate.protected`.
    """
    import jax
    import jax.numpy as jnp

    arrays, start_weights = steps.arrays, weights
    received = weights if steps.anchor is None else steps.anchor
    batch, num_table = arrays[0].shape[2], weights["rows"].shape[0]
    start_state = gru.zero_state(spec.cell, spec.hidden_dim, batch)

    def loss(
        weights: JaxWeights, data: Arrays, state: Any, scale: Any, step_key: Any, length: Any
    ) -> tuple[Any, tuple[Any, Any]]:
        rows, numbers, targets, mask, beside, labels = data
        gates = gru.project(
            weights,
            rows,
            numbers,
            None if scale is None else scale[:, :num_table],
            None if scale is None else scale[:, num_table:],
        )
        hidden, state = gru.recur(
            spec.cell, gates, weights["recurrent"], weights["bias"], state, length
        )
        if protection is not None:
            weights = protection.held_still(weights)
            noise = None
            if protection.method.noise:
                noise = jax.random.normal(jax.random.fold_in(step_key, 1), hidden.shape)
            hidden = gru.represent(weights, hidden, noise)
        head_key = jax.random.fold_in(step_key, 2)
        at_target, is_first = spec.at_targets(weights, hidden, beside, targets, head_key)
        loss_sum = -(at_target * mask).sum()
        correct = (is_first * mask).sum()
        mean = loss_sum / jnp.maximum(mask.sum(), 1.0)
        if protection is None:
            return mean, (state, jnp.stack([loss_sum, correct, 0.0, 0.0, 0.0]))
        assert steps.constants is not None, "a protection has constants in every round"
        mean, protected_sums = protection.step_loss(weights, mean, hidden, labels, steps.constants)
        return mean, (state, jnp.stack([loss_sum, correct, *protected_sums]))

    def one_step(i: Any, carried: tuple[Any, ...]) -> tuple[Any, ...]:
        now, slots, state, sums = carried
        at = i % steps.steps_per_pass
        fresh = at == 0 if steps.resets is None else steps.resets[at][:, None]
        state = tuple(jnp.where(fresh, 0.0, s) for s in state)
        data = jax.tree.map(
            lambda array: jax.lax.dynamic_index_in_dim(array, at, keepdims=False), arrays
        )
        step_key = jax.random.fold_in(key, i)
        scale = None
        if spec.dropout > 0:
            # one mask per sequence and local step, as Keras draws it
            kept = jax.random.bernoulli(
                step_key, 1.0 - spec.dropout, (batch, num_table + spec.num_numbers)
            )
            scale = kept.astype(jnp.float32) / (1.0 - spec.dropout)
        length = columns[at] if skips_padding else None
        gradient, (state, step_sums) = jax.grad(loss, has_aux=True)(
            start_weights if rule.at_received else now,
            data,
            state,
            scale,
            step_key,
            length,
        )
        if rule.adds_to_gradient:
            gradient = jax.tree.map(lambda g, w, r: g + rule.added(w, r), gradient, now, received)
        if steps.offset is not None:
            gradient = jax.tree.map(jnp.add, gradient, steps.offset)
        count = steps.first_step + i
        now, slots = local_step(rule.optimizer, rule.client_lr, count, now, slots, gradient)
        return now, slots, state, sums + step_sums

    def one_step_of_a_stack(i: Any, carried: tuple[Any, ...]) -> tuple[Any, ...]:
        after = one_step(i, carried)
        return jax.tree.map(lambda a, b: jnp.where(i < steps.num_steps, a, b), after, carried)

    key = jax.random.wrap_key_data(steps.key)
    # one client's window can end in padding in all rows; in a stack this is rare for all clients
    skips_padding = steps.resets is None and steps.at_most is None
    used = (arrays[3] > 0).any(2)  # [steps, seq_len]
    columns = jnp.where(used, jnp.arange(1, used.shape[1] + 1), 0).max(1)
    start = weights, slots, start_state, jnp.zeros(5)
    if steps.at_most is None:
        now, slots, _, sums = jax.lax.fori_loop(0, steps.num_steps, one_step, start)
    else:
        now, slots, _, sums = jax.lax.fori_loop(0, steps.at_most, one_step_of_a_stack, start)
    return now, slots, sums
