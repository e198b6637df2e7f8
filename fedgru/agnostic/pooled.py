"""What is learnt from the states of a whole cohort: kernel means, and heads taught in one place.

The means are sums over clients, which clients can send without their states. Heads taught here see
the states themselves: a simulation.
"""

from functools import cache, partial

import numpy as np

from fedgru.models import heads

NUM_FREQUENCIES = 256
TEACHING_LR = 0.002


def kernel_means(seen, draw):
    """Return what `explained_share` needs of everybody's states.

    Args:
        seen: float32 [n, dim], representations.
        draw: numpy Generator.

    Returns:
        (frequencies [dim, NUM_FREQUENCIES], phases [NUM_FREQUENCIES], mean [NUM_FREQUENCIES]),
        float32, of Fourier features of the standardised representation; the kernel's width is
        its root mean square distance.
    """
    from fedgru.agnostic.independence import fourier_features

    dim = seen.shape[1]
    spread = np.maximum(seen.std(0), 1e-6)
    frequencies = draw.standard_normal((dim, NUM_FREQUENCIES)) / (
        spread[:, None] * np.sqrt(2 * dim)
    )
    phases = draw.uniform(0, 2 * np.pi, NUM_FREQUENCIES)
    frequencies, phases = frequencies.astype(np.float32), phases.astype(np.float32)
    mean = np.asarray(fourier_features(seen, frequencies, phases)).mean(0)
    return frequencies, phases, mean


def teach(own, adversaries, seen, labels, batches):
    """Let heads learn by Adam, on standardised representations, so that no trace is too faint.

    Args:
        own: the heads' weights, for representations as they are.
        adversaries: how many heads.
        seen: float32 [n, dim].
        labels: int32 [n].
        batches: int [steps, batch], rows of `seen` for each step, with known labels.

    Returns:
        The heads' new weights, again for representations as they are.
    """
    mean, spread = seen.mean(0), np.maximum(seen.std(0), 1e-6)
    standard = ((seen - mean) / spread).astype(np.float32)
    inputs = [f"{heads.PREFIX}{adversary}_0_" for adversary in range(adversaries)]
    own = dict(own)
    for name in inputs:  # the first layer, as it reads standardised states
        own[f"{name}bias"] = own[f"{name}bias"] + mean @ own[f"{name}kernel"]
        own[f"{name}kernel"] = own[f"{name}kernel"] * spread[:, None]
    own = {
        name: np.asarray(w)
        for name, w in _teach_loop()(own, standard, labels, batches, adversaries).items()
    }
    for name in inputs:
        own[f"{name}kernel"] = own[f"{name}kernel"] / spread[:, None]
        own[f"{name}bias"] = own[f"{name}bias"] - mean @ own[f"{name}kernel"]
    return {name: w.astype(np.float32) for name, w in own.items()}


@cache
def _teach_loop():
    import jax

    from fedgru.agnostic.objective import mean_cross_entropy
    from fedgru.models.optimizers import init_slots, local_step

    @partial(jax.jit, static_argnames="adversaries")
    def run(own, seen, labels, batches, adversaries):
        def loss(own, at):
            scores = [heads.apply_head(own, a, seen[at]) for a in range(adversaries)]
            return sum(mean_cross_entropy(s, labels[at], jax.numpy.ones(len(at))) for s in scores)

        def step(carried, at):
            own, slots, num = carried
            own, slots = local_step("adam", TEACHING_LR, num, own, slots, jax.grad(loss)(own, at))
            return (own, slots, num + 1), None

        return jax.lax.scan(step, (own, init_slots("adam", own), 1), batches)[0][0]

    return run
