"""The kernel prior: counts of what followed check-ins like the last one, with learnt likeness.

Markov counts take every earlier check-in of the same category for equal, and no other. Here each
earlier check-in j counts by how alike it is to the last one, i, and by how long ago it was:

    weight(i, j) = exp(sum over m of w_m * (x_m(i, j) - 1) - forgetting * months(i, j))
    counts       = sum over j < i of weight(i, j) * [class of j + 1]
    base         = (recent frequencies + 5 shared) / (their sum + 5)
    log p        = log softmax(base_power * log base
                               + trust * (log((counts + k base) / (sum(counts) + k)) - log base))

with likenesses x_m: same venue, same category, nearness exp(-(d / 1 km)^2 / 2), cosine of the
difference of the local hours, both or neither at the weekend, same category before, same venue
before. Recent frequencies are the client's class counts with a half-life of 15 days.

The weights are eleven numbers, the same for everybody, learnt by federated SGD: in each round
every client sends its gradient of these eleven, at a few of its own train pairs, and a quadratic
penalty pulls them to their start values, so that little data moves them little. A special case
of a Nadaraya-Watson estimate (1964) over a person's own past; the softmax form is the log-linear
pool of both estimates.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass
from functools import cache

import numpy as np

from fedgru import seeding
from fedgru.priors import ClientPrior, one_hot_classes
from fedgru.xla import import_jax, num_threads

HALF_LIFE_S = 15 * 86400.0
MONTH_S = 30 * 86400.0
SHARED_WEIGHT = 5.0  # check-ins that the shared frequencies count for
KM_PER_DEG = 111.2

FIT_ROUNDS = 80
FIT_PAIRS = 64  # of each client, in each round
MIN_PAST = 10  # pairs with a shorter past say little about any past
SHRINKAGE = (
    10.0  # pull to the start values; as strong as 10 pairs' losses, so that few teach little
)
FIT_LR = 0.1  # falls to zero over the rounds
BLOCK = 64  # check-ins predicted in one compiled call
MIN_PADDED = 128


@dataclass(frozen=True)
class Kernel:
    """The shared numbers, with the values that learning starts from and shrinks to.

    Where a number must be positive its logarithm stands here.
    """

    same_venue: float = 1.0
    same_category: float = 1.0
    near: float = 1.0
    hour: float = 1.0
    weekend: float = 1.0
    same_category_before: float = 1.0
    same_venue_before: float = 1.0
    log_forgetting: float = -1.0
    log_k: float = 0.0
    trust: float = 1.0
    base_power: float = 1.0

    def to_dict(self):
        return asdict(self)

    @classmethod
    def from_dict(cls, values):
        return cls(**values)


@dataclass(frozen=True)
class _Past:
    """A client's check-ins as the compiled functions take them.

    Attributes:
        points: name -> [padded n], what is compared.
        followed: float32 [padded n, padded num_own], one-hot class of the check-in after each.
        log_base: float32 [n - 1, padded num_own], log base on the support, -inf in padding.
        log_base_rest: float32 [n - 1], what log shared is added to elsewhere.
        support: int32 [num_own].
        is_own: bool [num_classes], whether a class is in the support.
        log_shared: float32 [num_classes].
    """

    points: dict[str, np.ndarray]
    followed: np.ndarray
    log_base: np.ndarray
    log_base_rest: np.ndarray
    support: np.ndarray
    is_own: np.ndarray
    log_shared: np.ndarray

    def __len__(self):
        return len(self.log_base)


def kernel_prior(kernel, history, shared, first=0):
    """Return a client's ClientPrior under a Kernel.

    Args:
        kernel: Kernel.
        history: History of n check-ins.
        shared: float64 [num_classes].
        first: leave out the predictions of the check-ins up to and with this one.

    Returns:
        ClientPrior with n - 1 - first rows; row j is the prediction of check-in first + j + 1.
    """
    past = _lay_out(history, shared)
    num_pairs, num_own = len(past) - first, len(past.support)
    log_own = np.empty((num_pairs, num_own), np.float32)
    log_rest = np.empty(num_pairs, np.float32)
    numbers = np.array(astuple(kernel), np.float32)
    for start in range(0, num_pairs, BLOCK):
        rows = np.minimum(first + np.arange(start, start + BLOCK), len(past) - 1)
        block, rest = _compiled()[0](numbers, rows, *_arguments(past, rows))
        stop = min(start + BLOCK, num_pairs)
        log_own[start:stop] = np.asarray(block)[: stop - start, :num_own]
        log_rest[start:stop] = np.asarray(rest)[: stop - start]
    return ClientPrior(past.support, log_own, log_rest, kernel.base_power)


def fit_kernel(histories, shared, seed, threads=None, on_round=None, rounds=FIT_ROUNDS):
    """Learn the shared numbers by federated SGD with a server Adam.

    Args:
        histories: one History per client, of its train split alone.
        shared: float64 [num_classes].
        seed: int; each client draws its pairs by it, by round and by client.
        threads: clients at the same time; all cores if None. The result is the same.
        on_round: called as on_round(round_num, mean loss in nats), or None.
        rounds: int.

    Returns:
        Kernel; the start values if no client has more than MIN_PAST pairs.
    """
    pasts = [
        (client, _lay_out(history, shared))
        for client, history in enumerate(histories)
        if len(history) - 1 > MIN_PAST
    ]
    counts = np.array([len(past) - MIN_PAST for _, past in pasts], np.float64)
    numbers = start = np.array(astuple(Kernel()))
    first, second = np.zeros_like(numbers), np.zeros_like(numbers)

    def loss_and_gradient(client, past, round_num):
        draw = seeding.rng(seed, "kernel", round_num, client)
        rows = draw.integers(MIN_PAST, len(past), FIT_PAIRS)
        loss, gradient = _compiled()[1](numbers.astype(np.float32), rows, *_arguments(past, rows))
        return np.append(np.asarray(gradient, np.float64), float(loss))

    with ThreadPoolExecutor(num_threads(threads)) as pool:
        for round_num in range(1, rounds + 1) if pasts else ():
            sent = list(pool.map(lambda c: loss_and_gradient(*c, round_num), pasts))  # noqa: B023
            *gradient, loss = np.average(sent, axis=0, weights=counts)
            gradient = np.array(gradient) + SHRINKAGE / counts.sum() * (numbers - start)
            first = 0.9 * first + 0.1 * gradient
            second = 0.98 * second + 0.02 * gradient**2
            rate = FIT_LR * (1 - (round_num - 1) / rounds) / (1 - 0.9**round_num)
            numbers = numbers - rate * first / (np.sqrt(second / (1 - 0.98**round_num)) + 1e-8)
            if on_round is not None:
                on_round(round_num, loss)
    return Kernel(*numbers.tolist())


def _lay_out(history, shared):
    """Bring a History into the form of `_Past`."""
    support, one_hot = one_hot_classes(history)
    n, num_own = one_hot.shape
    frequencies = np.empty((n - 1, num_own))
    running = np.zeros(num_own)
    kept = 0.5 ** (np.diff(history.time_s, prepend=history.time_s[0]) / HALF_LIFE_S)
    for i in range(n - 1):
        running = running * kept[i] + one_hot[i]
        frequencies[i] = running
    total = frequencies.sum(axis=1) + SHARED_WEIGHT
    rest = SHARED_WEIGHT / total
    log_base = np.full((n - 1, _padded(num_own, 8)), -np.inf, np.float32)
    log_base[:, :num_own] = np.log(frequencies / total[:, None] + rest[:, None] * shared[support])

    located = np.isfinite(history.lat_deg) & np.isfinite(history.lon_deg)
    lat_deg, lon_deg = (
        np.where(located, values, 0.0) for values in (history.lat_deg, history.lon_deg)
    )
    first = np.argmax(located)
    points = {
        "venue": history.venues,
        "category": history.categories,
        "venue_before": np.concatenate([[-1], history.venues[:-1]]),
        "category_before": np.concatenate([[-1], history.categories[:-1]]),
        "weekend": history.weekend.astype(np.int32),
        "located": located.astype(np.int32),
        # from the first check-in: small numbers keep float32 precise
        "north_km": KM_PER_DEG * (lat_deg - lat_deg[first]),
        "east_at_equator_km": KM_PER_DEG * (lon_deg - lon_deg[first]),
        "narrowing": np.cos(np.radians(lat_deg)),
        "hour_turn": 2 * np.pi * history.local_hour / 24,
        "months": (history.time_s - history.time_s[0]) / MONTH_S,
    }
    followed = np.zeros((_padded(n), _padded(num_own, 8)), np.float32)
    followed[: n - 1, :num_own] = one_hot[1:]
    return _Past(
        points={
            name: np.pad(
                values.astype(np.float32 if values.dtype.kind == "f" else np.int32),
                (0, _padded(n) - n),
            )
            for name, values in points.items()
        },
        followed=followed,
        log_base=log_base,
        log_base_rest=np.log(rest).astype(np.float32),
        support=support,
        is_own=np.isin(np.arange(len(shared)), support),
        log_shared=np.log(shared).astype(np.float32),
    )


def _padded(size, smallest=MIN_PADDED):
    """The next power of two, so that few shapes are compiled."""
    return max(smallest, 1 << (size - 1).bit_length())


def _arguments(past, rows):
    """The other arguments of the compiled functions for some pairs of a client."""
    return (
        past.points,
        past.followed,
        past.log_base[rows],
        past.log_base_rest[rows],
        past.log_shared,
        past.is_own,
        past.followed[rows],  # the targets
    )


@cache
def _compiled():
    """Compile the prediction, and the mean loss with its gradient."""
    jax = import_jax()
    jnp = jax.numpy

    def predict(numbers, rows, points, followed, log_base, log_base_rest, log_shared, is_own, _):
        *likeness, log_forgetting, log_k, trust, base_power = numbers
        now = {name: values[rows][:, None] for name, values in points.items()}
        then = {name: values[None, :] for name, values in points.items()}

        def same(name):
            return ((now[name] == then[name]) & (now[name] >= 0)).astype(jnp.float32)

        north_km = now["north_km"] - then["north_km"]
        east_km = now["east_at_equator_km"] - then["east_at_equator_km"]
        east_km *= now["narrowing"]
        near = jnp.exp(-(north_km**2 + east_km**2) / 2)
        near = jnp.where((now["located"] & then["located"]) > 0, near, same("venue"))
        alike = (
            same("venue"),
            same("category"),
            near,
            jnp.cos(now["hour_turn"] - then["hour_turn"]),
            same("weekend"),
            same("category_before"),
            same("venue_before"),
        )
        exponent = -jnp.exp(log_forgetting) * (now["months"] - then["months"])
        for weight, x in zip(likeness, alike, strict=True):
            exponent += weight * (x - 1.0)
        earlier = jnp.arange(then["venue"].shape[1])[None, :] < rows[:, None]
        weights = jnp.where(earlier, jnp.exp(jnp.where(earlier, exponent, 0.0)), 0.0)
        counts = weights @ followed
        total, k = counts.sum(axis=1), jnp.exp(log_k)

        exists = jnp.isfinite(log_base)
        safe_base = jnp.where(exists, log_base, 0.0)
        pooled = jnp.log(counts + k * jnp.exp(safe_base)) - jnp.log(total + k)[:, None]
        own = base_power * safe_base + trust * (pooled - safe_base)
        own = jnp.where(exists, own, -jnp.inf)
        rest = base_power * log_base_rest + trust * (log_k - jnp.log(total + k))
        others = jnp.where(is_own, 0.0, jnp.exp(base_power * log_shared)).sum()
        log_others = jnp.log(jnp.maximum(others, 1e-30))  # the client may own all classes
        normaliser = jnp.logaddexp(jax.nn.logsumexp(own, axis=1), rest + log_others)
        return own - normaliser[:, None], rest - normaliser

    def mean_loss(numbers, rows, *arguments):
        own, _ = predict(numbers, rows, *arguments)
        targets = arguments[-1]
        known = targets.sum(axis=1)
        losses = -jnp.where(targets > 0, own, 0.0).sum(axis=1)
        return losses.sum() / jnp.maximum(known.sum(), 1.0)

    return jax.jit(predict), jax.jit(jax.value_and_grad(mean_loss))
