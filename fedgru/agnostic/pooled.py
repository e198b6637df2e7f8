"""Learning from the states of a whole cohort: kernel means, and heads trained by the server.

The means are sums over clients, which clients can send without their states. The heads' training
needs the states themselves: it is a simulation.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeAlias

import numpy as np

from fedgru.core.types import AnyArray, AnyInts, AnyWeights, Floats, Weights
from fedgru.models import heads

KernelMeans: TypeAlias = tuple[AnyArray, AnyArray, AnyArray]  # see `kernel_means`

NUM_FREQUENCIES = 256
TEACHING_LR = 0.002


def kernel_means(seen: Floats, draw: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Return the Fourier features of all states that `explained_share` needs.

    Args:
        seen: float32 [n, dim], representations.
        draw: numpy Generator.

    Returns:
        (frequencies [dim, NUM_FREQUENCIES], phases [NUM_FREQUENCIES], mean [NUM_FREQUENCIES]),
        float32, of Fourier features of the standardised representation. The kernel's width is the
        root mean square distance of the states.
    """
    from fedgru.agnostic.independence import fourier_features

    dim = seen.shape[1]
    spread = np.maximum(seen.std(0), 1e-6)
    frequencies = draw.standard_normal((dim, NUM_FREQUENCIES)) / (
        spread[:, None] * np.sqrt(2 * dim)
    )
    phases = draw.uniform(0, 2 * np.pi, NUM_FREQUENCIES)
    made = frequencies.astype(np.float32), phases.astype(np.float32)
    return *made, np.asarray(fourier_features(seen, *made)).mean(0)


def teach(
    own: Weights, adversaries: int, seen: Floats, labels: AnyInts, batches: AnyInts
) -> Weights:
    """Train heads by Adam on standardised representations, so that they see faint traces too.

    Args:
        own: the heads' weights, for unscaled representations.
        adversaries: number of heads.
        seen: float32 [n, dim].
        labels: int32 [n].
        batches: int [steps, batch], rows of `seen` for each step, with known labels.

    Returns:
        The heads' new weights, again for unscaled representations.
    """
    mean, spread = seen.mean(0), np.maximum(seen.std(0), 1e-6)
    standard = ((seen - mean) / spread).astype(np.float32)
    inputs = [f"{heads.PREFIX}{adversary}_0_" for adversary in range(adversaries)]
    own = dict(own)
    for name in inputs:  # change the first layer, so that it takes standardised states
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
def _teach_loop() -> Callable[..., dict[str, AnyArray]]:
    import jax

    from fedgru.agnostic.objective import mean_cross_entropy
    from fedgru.models.optimizers import init_slots, local_step

    @partial(jax.jit, static_argnames="adversaries")
    def run(
        own: AnyWeights, seen: AnyArray, labels: AnyArray, batches: AnyArray, adversaries: int
    ) -> Any:
        def loss(own: AnyWeights, at: AnyArray) -> AnyArray:
            scores = [heads.apply_head(own, a, seen[at]) for a in range(adversaries)]
            return sum(mean_cross_entropy(s, labels[at], jax.numpy.ones(len(at))) for s in scores)

        def step(carried: Any, at: AnyArray) -> Any:
            own, slots, num = carried
            own, slots = local_step("adam", TEACHING_LR, num, own, slots, jax.grad(loss)(own, at))
            return (own, slots, num + 1), None

        return jax.lax.scan(step, (own, init_slots("adam", own), 1), batches)[0][0]

    return run
