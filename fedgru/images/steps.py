"""The compiled steps of image training: one call runs the batches of an epoch. JAX.

All arguments of the two factories are hashable, and their results are cached: trainings that
differ only in strength and seed share one compiled program.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from fedgru.agnostic import independence, objective
from fedgru.config.methods import Method
from fedgru.core.jax_setup import import_jax
from fedgru.core.types import AnyArray, AnyWeights
from fedgru.models import cnn, heads
from fedgru.models.optimizers import Optimizer, descend


@cache
def target_epoch(spec: cnn.CnnSpec, optimizer: Optimizer, flips: bool) -> Callable[..., Any]:
    """Return a compiled function: ordinary steps on batches of targets, one per row of `order`."""
    jax = import_jax()
    import jax.numpy as jnp

    @jax.jit
    def run(
        state: Any,
        images: AnyArray,
        labels: AnyArray,
        order: AnyArray,
        lr: AnyArray,
        epoch: AnyArray,
        key: AnyArray,
    ) -> Any:
        def step(state: Any, rows: AnyArray) -> Any:
            weights, slots, number = state
            crop_key, drop_key = jax.random.split(jax.random.fold_in(key, number))
            batch = augment(images[rows], spec.image_shape[0], flips, crop_key)

            def loss_of(weights: AnyWeights) -> AnyArray:
                z = cnn.represent(spec, weights, batch)
                scores = cnn.classify(spec, weights, z, drop_key)
                ones = jnp.ones(len(rows), jnp.float32)
                return objective.mean_cross_entropy(scores, labels[rows], ones)

            loss, gradients = jax.value_and_grad(loss_of)(weights)
            count = (epoch - 1) * len(order) + number + 1
            weights, slots = descend(optimizer, weights, gradients, slots, lr, count)
            return (weights, slots, number + 1), loss

        (weights, slots, _), losses = jax.lax.scan(step, (*state, jnp.int32(0)), order)
        return (weights, slots), losses

    return run


@cache
def agnostic_epoch(
    spec: cnn.CnnSpec,
    optimizer: Optimizer,
    flips: bool,
    method: Method,
    num_contexts: int,
    heads_only: bool,
    kind: str,
) -> Callable[..., Any]:
    """Return a compiled function: steps of the whole objective, or only of the protected heads.

    `kind` is the TradeOff's kind; the strength of each step is an argument of the function.
    """
    jax = import_jax()
    import jax.numpy as jnp

    crop = spec.image_shape[0]

    def protected_loss(
        weights: AnyWeights, z: AnyArray, context: AnyArray, is_target: AnyArray, key: AnyArray
    ) -> AnyArray:
        """Mean over adversaries of: mean over targets + mean over contexts, as in equation (1)."""
        losses: list[AnyArray] = []
        for adversary in range(max(method.adversaries, 1)):
            adversary_key = jax.random.fold_in(key, adversary)
            scores = heads.apply_head(weights, adversary, z, spec.dropout, adversary_key)
            losses.append(
                sum(
                    objective.mean_cross_entropy(scores, context, (context >= 0) * part)
                    for part in (is_target, 1.0 - is_target)
                )
            )
        return sum(losses) / len(losses)

    def confusion(weights: AnyWeights, z: AnyArray, is_target: AnyArray, key: AnyArray) -> AnyArray:
        parts: list[AnyArray] = []
        for adversary in range(method.adversaries):
            scores = heads.apply_head(weights, adversary, z)
            parts.append(
                sum(objective.mean_confusion(scores, part) for part in (is_target, 1.0 - is_target))
            )
        return sum(parts) / len(parts)

    @jax.jit
    def run(
        state: Any,
        data: Any,
        strengths: AnyArray,
        erasing: tuple[AnyArray, AnyArray] | None,
        lr: AnyArray,
        epoch: AnyArray,
        key: AnyArray,
    ) -> Any:
        (images, targets, contexts), (context_images, context_labels), order, context_order = data

        def step(state: Any, inputs: Any) -> Any:
            weights, own_slots, head_slots, number = state
            rows, context_rows, strength = inputs
            keys = jax.random.split(jax.random.fold_in(key, number), 5)
            num_targets, n = len(rows), len(rows) + len(context_rows)
            batch = jnp.concatenate([images[rows], context_images[context_rows]])
            batch = augment(batch, crop, flips, keys[0])
            context = jnp.concatenate([contexts[rows], context_labels[context_rows]])
            target = targets[rows]
            is_target = jnp.where(jnp.arange(n) < num_targets, 1.0, 0.0)
            own, protected = heads.split_heads(weights)

            def served(own: AnyWeights, noise_key: AnyArray) -> AnyArray:
                z = cnn.represent(spec, own, batch)
                if erasing is not None:
                    mean, removed = erasing
                    z = z - (z - mean) @ removed
                if method.noise and not heads_only:
                    z = z + strength * method.noise * jax.random.normal(noise_key, z.shape)
                return z

            def loss_of(own: AnyWeights, protected: AnyWeights) -> tuple[AnyArray, AnyArray]:
                z = served(own, keys[1])
                scores = cnn.classify(spec, own, z[:num_targets], keys[2])
                ones = jnp.ones(num_targets, jnp.float32)
                target_loss = objective.mean_cross_entropy(scores, target, ones)
                target_weight, reversal = objective.loss_weights(kind, strength)
                total = target_weight * target_loss
                if method.adversaries == 0 or method.confusion:
                    still = jax.lax.stop_gradient(z)
                    total += protected_loss(protected, still, context, is_target, keys[3])
                else:
                    reversed_z = objective.reverse_gradient(z, reversal)
                    total += protected_loss(protected, reversed_z, context, is_target, keys[3])
                if method.confusion and method.adversaries:
                    held = jax.lax.stop_gradient(protected)
                    total += strength * confusion(held, z, is_target, keys[3])
                if method.dependence:
                    known = jnp.where(context >= 0, 1.0, 0.0)
                    measure = _dependence(method, spec, num_contexts)
                    total += (
                        strength
                        * method.dependence
                        * measure(z, context, target, known, num_targets)
                    )
                return total, target_loss

            if heads_only:
                z = jax.lax.stop_gradient(served(own, keys[1]))
                gradients = jax.grad(protected_loss)(protected, z, context, is_target, keys[3])
                loss = jnp.float32(0)
            else:
                (_, loss), (own_gradients, gradients) = jax.value_and_grad(
                    loss_of, (0, 1), has_aux=True
                )(own, protected)
            count = (epoch - 1) * len(order) + number + 1
            protected, head_slots = descend(optimizer, protected, gradients, head_slots, lr, count)
            for more in range(method.adversary_steps - 1):
                more_key = jax.random.fold_in(keys[4], more)
                z = jax.lax.stop_gradient(served(own, more_key))
                gradients = jax.grad(protected_loss)(protected, z, context, is_target, more_key)
                protected, head_slots = descend(
                    optimizer, protected, gradients, head_slots, lr, count
                )
            if not heads_only:
                own, own_slots = descend(optimizer, own, own_gradients, own_slots, lr, count)
            return (own | protected, own_slots, head_slots, number + 1), loss

        start = (*state, jnp.int32(0))
        (*state, _), losses = jax.lax.scan(step, start, (order, context_order, strengths))
        return tuple(state), losses

    return run


def _dependence(method: Method, spec: cnn.CnnSpec, num_contexts: int) -> Callable[..., AnyArray]:
    """Return a function: the kernel measure on targets plus the one on contexts."""

    def measure(
        z: AnyArray, context: AnyArray, target: AnyArray, known: AnyArray, num_targets: int
    ) -> AnyArray:
        on_targets, on_contexts = known[:num_targets], known[num_targets:]
        if method.decorrelate:
            first = independence.hsic(
                z[:num_targets], context[:num_targets], num_contexts, on_targets
            )
        else:
            first = independence.conditional_hsic(
                z[:num_targets],
                context[:num_targets],
                num_contexts,
                target,
                spec.num_classes,
                on_targets,
            )
        second = independence.hsic(
            z[num_targets:], context[num_targets:], num_contexts, on_contexts
        )
        return first + second

    return measure


def augment(images: AnyArray, crop: int, flips: bool, key: AnyArray) -> AnyArray:
    """Return one of five crops of each image; with `flips`, half of them are mirrored."""
    import jax
    import jax.numpy as jnp

    crop_key, flip_key = jax.random.split(key)
    spare = images.shape[1] - crop
    if spare:
        corners = jnp.array([(0, 0), (0, spare), (spare, 0), (spare, spare), (spare // 2,) * 2])
        chosen = corners[jax.random.randint(crop_key, (len(images),), 0, len(corners))]

        def cut(image: AnyArray, corner: AnyArray) -> AnyArray:
            return jax.lax.dynamic_slice(
                image, (corner[0], corner[1], 0), (crop, crop, image.shape[2])
            )

        images = jax.vmap(cut)(images, chosen)
    if flips:
        mirrored = jax.random.bernoulli(flip_key, 0.5, (len(images), 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    return images
