"""The compiled steps of image training: one call runs the batches of an epoch. JAX.

Every argument of the two factories is hashable, and what they give is kept: trainings that differ
in strength and seed alone share one compiled program.
"""

from functools import cache

from fedgru.agnostic import independence, objective
from fedgru.core.jax_setup import import_jax
from fedgru.models import cnn, heads


@cache
def target_epoch(spec, optimizer, flips):
    """Compiled: ordinary steps on batches of targets, one for each row of the order."""
    jax = import_jax()
    import jax.numpy as jnp

    @jax.jit
    def run(state, images, labels, order, lr, epoch, key):
        def step(state, rows):
            weights, slots, number = state
            crop_key, drop_key = jax.random.split(jax.random.fold_in(key, number))
            batch = augment(images[rows], spec.image_shape[0], flips, crop_key)

            def loss_of(weights):
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
def agnostic_epoch(spec, optimizer, flips, method, num_contexts, heads_only, kind):
    """Compiled: steps of the whole objective, or of the protected heads alone.

    `kind` is that of the TradeOff; the strength of each step is an argument of what is compiled.
    """
    jax = import_jax()
    import jax.numpy as jnp

    crop = spec.image_shape[0]

    def protected_loss(weights, z, context, is_target, key):
        """Mean over adversaries of: mean over targets + mean over contexts, as in equation (1)."""
        losses = []
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

    def confusion(weights, z, is_target, key):
        parts = []
        for adversary in range(method.adversaries):
            scores = heads.apply_head(weights, adversary, z)
            parts.append(
                sum(objective.mean_confusion(scores, part) for part in (is_target, 1.0 - is_target))
            )
        return sum(parts) / len(parts)

    @jax.jit
    def run(state, data, strengths, erasing, lr, epoch, key):
        (images, targets, contexts), (context_images, context_labels), order, context_order = data

        def step(state, inputs):
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

            def served(own, noise_key):
                z = cnn.represent(spec, own, batch)
                if erasing is not None:
                    mean, removed = erasing
                    z = z - (z - mean) @ removed
                if method.noise and not heads_only:
                    z = z + strength * method.noise * jax.random.normal(noise_key, z.shape)
                return z

            def loss_of(own, protected):
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


def _dependence(method, spec, num_contexts):
    """The kernel measure on targets and on contexts, added up."""

    def measure(z, context, target, known, num_targets):
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


def augment(images, crop, flips, key):
    """Return the centre, or in training one of five crops, half of them mirrored."""
    import jax
    import jax.numpy as jnp

    crop_key, flip_key = jax.random.split(key)
    spare = images.shape[1] - crop
    if spare:
        corners = jnp.array([(0, 0), (0, spare), (spare, 0), (spare, spare), (spare // 2,) * 2])
        chosen = corners[jax.random.randint(crop_key, (len(images),), 0, len(corners))]

        def cut(image, corner):
            return jax.lax.dynamic_slice(
                image, (corner[0], corner[1], 0), (crop, crop, image.shape[2])
            )

        images = jax.vmap(cut)(images, chosen)
    if flips:
        mirrored = jax.random.bernoulli(flip_key, 0.5, (len(images), 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    return images


def descend(optimizer, weights, gradients, slots, lr, count):
    """Return (weights, slots) after one step, by optax.

    Args:
        optimizer: (kind, momentum, weight_decay): kind is "sgd" or "adam", for which momentum is
            the decay of the mean.
        weights, gradients: trees of float32 arrays of the same shapes.
        slots: (first, second) moments, trees as the weights; sgd leaves the second alone.
        lr: learning rate.
        count: int [], the first step is 1; several steps of the heads may share it.

    Source: Kingma and Ba 2015 (arXiv:1412.6980), Algorithm 1, with beta_2 = 0.999 and its epsilon;
        weight decay goes into the gradient, not beside it.
    """
    import jax
    import optax

    kind, momentum, weight_decay = optimizer
    first, second = slots
    decay = optax.add_decayed_weights(weight_decay)
    step, _ = decay.update(gradients, decay.init(weights), weights)
    if kind == "sgd":
        step, state = optax.trace(momentum).update(step, optax.TraceState(first))
        first = state.trace
    else:
        state = optax.ScaleByAdamState(jax.numpy.int32(count - 1), first, second)
        step, state = optax.scale_by_adam(b1=momentum, b2=0.999, eps=1e-8).update(step, state)
        first, second = state.mu, state.nu
    return jax.tree.map(lambda w, s: w - lr * s, weights, step), (first, second)
