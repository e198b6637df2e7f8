"""The kernel prior: counts of what followed check-ins like the last one, with learnt similarity.

Markov counts give every earlier check-in of the same category the same weight, and all others
none. Here the weight of an earlier check-in j depends on its similarity to the last one, i, and on
its age:

    weight(i, j) = exp(sum over m of w_m * (x_m(i, j) - 1) - forgetting * months(i, j))
    counts       = sum over j < i of weight(i, j) * [class of j + 1]
    base         = (recent frequencies + 5 shared) / (their sum + 5)
    log p        = log softmax(base_power * log base
                               + trust * (log((counts + k base) / (sum(counts) + k)) - log base))

with similarities x_m: same venue, same category, nearness exp(-(d / 1 km)^2 / 2), cosine of the
difference of the local hours, both or neither at the weekend, same category before, same venue
before. Recent frequencies are the client's class counts with a half-life of 15 days. Only the last
`WINDOW` check-ins before i are compared with it, so that time is linear in the length of a history.

With `asked_at` the moment of check-in i + 1 is known: hour and weekend are then those of check-ins
i + 1 and j + 1, and there is one similarity more, exp(-2 (log gap_i - log gap_j)^2), of the hours
gap_i from i to i + 1, plus 1, and gap_j from j to j + 1.

The weights are eleven numbers (twelve with `asked_at`), the same for everybody, learnt by federated
SGD: in each round every client sends its gradient of these numbers, at a few of its own train
pairs, and a quadratic penalty pulls them to their start values, so that little data moves them
little. A special case of a Nadaraya-Watson estimate (1964) over a person's own past; the softmax
form is the log-linear pool of both estimates.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np

from fedgru.core import seeding
from fedgru.core.jax_setup import num_threads
from fedgru.core.types import AnyInts, Doubles, Floats
from fedgru.task.kernel_layout import ClientPast, Pasts, lay_out
from fedgru.task.priors import ClientPrior, History

WINDOW = 4096  # check-ins before the last one that are compared with it; of each client in learning
FIT_ROUNDS = 80
FIT_PAIRS = 64  # of each client, in each round
MIN_PAST = 10  # pairs with a shorter past are not used: they say little
SHRINKAGE = 10.0  # pull to the start values, as strong as the losses of 10 pairs
FIT_CLIP = 0.5  # with differential privacy, norm of a client's gradient
FIT_LR = 0.1  # falls to zero over the rounds
BLOCK = 64  # check-ins predicted at once
PART = 512  # check-ins predicted from one layout of a history longer than the window
CELLS_AT_ONCE = 1 << 16  # pairs of check-ins compared at once: as much as a core's cache holds


@dataclass(frozen=True)
class Kernel:
    """The shared numbers, with the values that learning starts from and shrinks to.

    A number that must be positive is stored as its logarithm. `gap` is None where the moment of the
    next check-in is not known.
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
    gap: float | None = None

    @classmethod
    def start(cls, asked_at: bool) -> "Kernel":
        """Return the Kernel that learning starts from."""
        return cls(gap=1.0) if asked_at else cls()

    @property
    def asked_at(self) -> bool:
        """Whether it reads the moment of the next check-in."""
        return self.gap is not None

    @property
    def similarities(self) -> tuple[str, ...]:
        """The numbers that weigh similarities, in the order of the arrays."""
        return (*SIMILARITIES, "gap") if self.asked_at else SIMILARITIES

    def places(self, names: Sequence[str]) -> list[int]:
        """Return where some numbers stand in `to_dict`."""
        order = list(self.to_dict())
        return [order.index(name) for name in names]

    def to_dict(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, float]) -> "Kernel":
        return cls(**values)


# What two check-ins are compared by, in the order of the arrays: first what is equal or not.
EQUAL = ("same_venue", "same_category", "weekend", "same_category_before", "same_venue_before")
SIMILARITIES = (*EQUAL, "near", "hour")
AGE = len(SIMILARITIES)  # the place of the months; that of the gap is behind it
FAR = 40.0  # exp(-40) is nothing beside 1; below exp(-87) float32 loses digits, and time
TINY = 1e-30


@dataclass(frozen=True)
class _Predictions:
    """Predictions of some pairs of each client, float32, and what their gradient needs.

    Attributes:
        own: [clients, pairs, num_own], log of what the classes of the support get, not yet
            normalised; of no meaning in padding.
        rest: [clients, pairs], the same for what is added to base_power * log shared elsewhere.
        normaliser: [clients, pairs], to be subtracted from both.
        share_own: [clients, pairs, num_own], probabilities of the support; 0 in padding.
        share_others: [clients, pairs], probability of all other classes together.
        others_mean: [clients, 1], mean of log shared over the other classes, by their
            probabilities.
        compared: [clients, 8 or 9, pairs, num_earlier], see `_compare`.
        weights: [clients, pairs, num_earlier].
        base_counts: [clients, pairs, num_own], k base.
        all_counts: the same, with the counts.
        gain: the same: log pooled - log base.
        total: [clients, pairs], sum(counts) + k.
        rest_gain: [clients, pairs], log k - log total.
    """

    own: Floats
    rest: Floats
    normaliser: Floats
    share_own: Floats
    share_others: Floats
    others_mean: Floats
    compared: Floats
    weights: Floats
    base_counts: Floats
    all_counts: Floats
    gain: Floats
    total: Floats
    rest_gain: Floats


def kernel_prior(kernel: Kernel, history: History, shared: Doubles, first: int = 0) -> ClientPrior:
    """Return a client's ClientPrior under a Kernel.

    Args:
        kernel: Kernel.
        history: History of n check-ins.
        shared: float64 [num_classes].
        first: leave out the predictions of the check-ins up to and including this one.

    Returns:
        ClientPrior with n - 1 - first rows; row j is the prediction of check-in first + j + 1.
    """
    past, length = ClientPast(history, shared, kernel.asked_at), len(history) - 1
    log_own = np.empty((length - first, len(past.support)), np.float32)
    log_rest = np.empty(length - first, np.float32)
    numbers = np.array(list(kernel.to_dict().values()), np.float32)
    in_window = len(history) <= WINDOW
    part = max(length, 1) if in_window else PART
    block = BLOCK if in_window else max(1, CELLS_AT_ONCE // (WINDOW + PART))
    for begin in range(first, length, part):
        end = min(begin + part, length)
        lowest = 0 if in_window else max(0, begin - WINDOW)
        pasts = past.pasts(lowest, end + 1, begin)
        for start in range(begin, end, block):
            rows = np.arange(start, min(start + block, end))
            found = _predict(numbers, pasts, rows[None] - lowest)
            log_own[rows - first] = (found.own - found.normaliser[..., None])[0]
            log_rest[rows - first] = (found.rest - found.normaliser)[0]
    return ClientPrior(past.support, log_own, log_rest, kernel.base_power)


def fit_kernel(
    histories: Sequence[History],
    shared: Doubles,
    seed: int,
    threads: int | None = None,
    on_round: Callable[[int, float], object] | None = None,
    rounds: int = FIT_ROUNDS,
    asked_at: bool = False,
    noise: float | None = None,
) -> Kernel:
    """Learn the shared numbers by federated SGD with a server Adam.

    Args:
        histories: one History per client, of its train split alone; its last `WINDOW` check-ins
            are learnt from.
        shared: float64 [num_classes].
        seed: int; a client's random pairs depend on it, on the round and on the client.
        threads: int, all cores if None. The result does not depend on it.
        on_round: called as on_round(round_num, mean loss in nats), or None.
        rounds: int.
        asked_at: whether the moment of the next check-in is known.
        noise: with differential privacy, standard deviation of the noise of all rounds together, in
            units of what a client adds at most: its gradient, clipped to norm `FIT_CLIP`. All
            clients then count equally, also those with too few check-ins, and no loss is sent: it
            is NaN. None weighs clients by their pairs.

    Returns:
        Kernel; the start values if no client has more than MIN_PAST pairs.
    """
    histories = [history[-WINDOW:] for history in histories]
    able = [client for client, h in enumerate(histories) if len(h) - 1 > MIN_PAST]
    counts = np.array([len(histories[client]) - 1 - MIN_PAST for client in able], np.float64)
    groups = [
        (group, lay_out([histories[client] for client in group], shared, asked_at))
        for group in _groups(able, [len(histories[client]) for client in able])
    ]
    numbers = start = np.array(list(Kernel.start(asked_at).to_dict().values()))
    first, second = np.zeros_like(numbers), np.zeros_like(numbers)

    def gradients(group: list[int], pasts: Pasts, round_num: int) -> Doubles:
        rows = [
            seeding.rng(seed, "kernel", round_num, client).integers(MIN_PAST, length, FIT_PAIRS)
            for client, length in zip(group, pasts.lengths, strict=True)
        ]
        return _gradients(numbers.astype(np.float32), pasts, np.stack(rows))

    with ThreadPoolExecutor(num_threads(threads)) as pool:
        for round_num in range(1, rounds + 1) if able else ():
            sent = list(pool.map(lambda g: gradients(g[0], g[1], round_num), groups))  # noqa: B023
            found = np.concatenate(sent)
            if noise is None:
                mean = np.average(found, axis=0, weights=counts)
                gradient, loss, pull = mean[:-1], float(mean[-1]), SHRINKAGE / counts.sum()
            else:
                draw = seeding.rng(seed, "kernel noise", round_num)
                total = _noised_sum(found[:, :-1], noise * rounds**0.5, draw)
                gradient, loss = total / len(histories), float("nan")
                pull = SHRINKAGE / (FIT_PAIRS * len(histories))
            gradient = gradient + pull * (numbers - start)
            first = 0.9 * first + 0.1 * gradient
            second = 0.98 * second + 0.02 * gradient**2
            rate = FIT_LR * (1 - (round_num - 1) / rounds) / (1 - 0.9**round_num)
            numbers = numbers - rate * first / (np.sqrt(second / (1 - 0.98**round_num)) + 1e-8)
            if on_round is not None:
                on_round(round_num, loss)
    return Kernel(*numbers.tolist())


def _noised_sum(gradients: Doubles, noise: float, generator: np.random.Generator) -> Doubles:
    """Return the sum of gradients, float64 [clients, 11 or 12], clipped and with noise."""
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    clipped = gradients * np.minimum(1.0, FIT_CLIP / np.maximum(norms, TINY))
    draws = generator.standard_normal(gradients.shape[1])
    return clipped.sum(axis=0) + noise * FIT_CLIP * draws


def _groups(clients: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Cut a list of clients into groups that are computed at once."""
    groups: list[list[int]] = []
    longest = 0
    for client, length in zip(clients, lengths, strict=True):
        longest = max(longest, length)
        if not groups or (len(groups[-1]) + 1) * longest * FIT_PAIRS > CELLS_AT_ONCE:
            groups.append([])
            longest = length
        groups[-1].append(client)
    return groups


def _predict(numbers: Floats, pasts: Pasts, rows: AnyInts) -> _Predictions:
    """Return the _Predictions of some pairs of each client.

    Args:
        numbers: float32 [11 or 12], those of a Kernel.
        pasts: Pasts.
        rows: int [clients, pairs]; pair i predicts check-in i + 1.
    """
    kernel = Kernel(*numbers)
    k = np.exp(kernel.log_k)
    at = np.arange(len(rows))[:, None], rows - pasts.base_from
    compared = _compare(pasts, rows)
    exponent = np.einsum("m,cmij->cij", _coefficients(kernel), compared)
    exponent -= numbers[sorted(kernel.places(kernel.similarities))].sum()
    is_later = pasts.earlier >= rows[..., None].astype(np.int32)
    np.copyto(exponent, -np.inf, where=is_later)
    if max(pasts.lengths) > WINDOW:
        is_too_old = pasts.earlier < rows[..., None].astype(np.int32) - WINDOW
        np.copyto(exponent, -np.inf, where=is_too_old)
    weights = np.exp(exponent, out=exponent)

    counts = np.zeros((*rows.shape, pasts.log_base.shape[2]), np.float32)
    for to, num, values in zip(counts, pasts.num_followed, weights, strict=True):
        (occurs,) = np.nonzero(num)
        starts = (np.cumsum(num) - num)[occurs]
        to[:, occurs] = np.add.reduceat(values[:, : num.sum()], starts, axis=1)
    total = counts.sum(axis=2) + k
    log_base, log_base_rest = pasts.log_base[at], pasts.log_base_rest[at]
    base_counts = k * np.exp(log_base)
    all_counts = counts + base_counts
    gain = np.log(all_counts) - np.log(total)[..., None] - log_base
    own = kernel.base_power * log_base + kernel.trust * gain
    rest_gain = kernel.log_k - np.log(total)
    rest = kernel.base_power * log_base_rest + kernel.trust * rest_gain

    others = np.exp(kernel.base_power * pasts.log_others) * pasts.is_other
    # the client may own all classes
    sum_others = np.maximum(others.sum(axis=1, keepdims=True), TINY)
    others_mean = (others * pasts.log_others).sum(axis=1, keepdims=True) / sum_others
    log_others = rest + np.log(sum_others)
    top = np.maximum(own.max(axis=2, initial=-np.inf), log_others)
    share_own = np.exp(own - top[..., None]) * pasts.exists
    share_others = np.exp(log_others - top)
    scale = share_own.sum(axis=2) + share_others
    return _Predictions(
        own=own,
        rest=rest,
        normaliser=top + np.log(scale),
        share_own=share_own / scale[..., None],
        share_others=share_others / scale,
        others_mean=others_mean,
        compared=compared,
        weights=weights,
        base_counts=base_counts,
        all_counts=all_counts,
        gain=gain,
        total=total,
        rest_gain=rest_gain,
    )


def _compare(pasts: Pasts, rows: AnyInts) -> Floats:
    """Return float32 [clients, 8 or 9, pairs, num_earlier]: SIMILARITIES, months, if known gap."""
    at = np.arange(len(rows))[:, None], slice(None), rows
    shape = len(rows), len(EQUAL) + pasts.points.shape[1] - 3, rows.shape[1], pasts.earlier.shape[2]
    compared = np.empty(shape, np.float32)
    equal, (near, hour, months, *gaps) = compared[:, :5], np.moveaxis(compared[:, 5:], 1, 0)
    codes = np.swapaxes(pasts.codes[at], 1, 2)
    equal[...] = codes[..., None] == pasts.earlier_codes
    now = np.moveaxis(pasts.points[at], 2, 0)[..., None]
    north, east, narrowing, cos, sin, time, *log_gaps = zip(
        now, np.moveaxis(pasts.earlier_points, 1, 0), strict=True
    )

    np.subtract(*north, out=near)
    near *= near
    other = np.subtract(*east)
    other *= narrowing[0]
    other *= other
    near += other
    np.minimum(near, FAR, out=near)
    np.negative(near, out=near)
    np.exp(near, out=near)
    if not pasts.located.all():
        both = pasts.located[at[0], rows][..., None] & pasts.earlier_located
        near[...] = np.where(both, near, equal[:, 0])
    np.multiply(*cos, out=hour)
    hour += np.multiply(*sin, out=other)
    np.subtract(*time, out=months)
    for gap, log_gap in zip(gaps, log_gaps, strict=True):
        np.subtract(*log_gap, out=gap)
        gap *= gap
        gap *= -2
        np.exp(gap, out=gap)
    return compared


def _coefficients(kernel: Kernel) -> Floats:
    """Return float32 [8 or 9], what each of `_compare` counts for in the exponent."""
    found = [getattr(kernel, name) for name in kernel.similarities]
    found.insert(AGE, -np.exp(kernel.log_forgetting))
    return np.array(found, np.float32)


def _gradients(numbers: Floats, pasts: Pasts, rows: AnyInts) -> Doubles:
    """Return float64 [clients, 12 or 13], the gradient of each client's mean loss, and the loss.

    Args: as for `_predict`. A pair whose class is unknown does not count.
    """
    kernel = Kernel(*numbers)
    at = np.arange(len(rows))[:, None], rows
    log_base = pasts.log_base[at]
    targets = pasts.targets[at][..., None] == np.arange(log_base.shape[2])
    targets = targets.astype(np.float32)
    found = _predict(numbers, pasts, rows)
    known = targets.sum(axis=2)
    num_known = np.maximum(known.sum(axis=1, keepdims=True), 1)
    log_prob = np.where(targets > 0, found.own - found.normaliser[..., None], 0)

    # the derivative of the loss by each of these
    share = known / num_known
    by_own = found.share_own * share[..., None] - targets / num_known[..., None]
    by_rest = found.share_others * share
    by_log = kernel.trust * by_own
    by_count = by_log / found.all_counts
    by_total = -(by_log.sum(axis=2) + kernel.trust * by_rest) / found.total
    by_class = by_count + by_total[..., None]
    by_exponent = np.zeros_like(found.weights)
    for to, num, values in zip(by_exponent, pasts.num_followed, by_class, strict=True):
        to[:, : num.sum()] = np.repeat(values[:, : len(num)], num, axis=1)
    by_exponent *= found.weights
    of_rows = np.einsum("cmij,cij->cmi", found.compared, by_exponent)
    by_coefficient = of_rows.sum(axis=2, dtype=np.float64)

    gradients = np.empty((len(rows), len(numbers) + 1))
    names = list(kernel.similarities)
    similar = kernel.places(names)
    names.insert(AGE, "log_forgetting")
    gradients[:, kernel.places(names)] = by_coefficient
    gradients[:, similar] -= by_exponent.sum(axis=(1, 2))[:, None]
    gradients[:, 7] *= -np.exp(kernel.log_forgetting)
    gradients[:, 8] = (
        (by_count * found.base_counts).sum(axis=(1, 2))
        + np.exp(kernel.log_k) * by_total.sum(axis=1)
        + kernel.trust * by_rest.sum(axis=1)
    )
    gradients[:, 9] = (by_own * found.gain).sum(axis=(1, 2))
    gradients[:, 9] += (by_rest * found.rest_gain).sum(axis=1)
    gradients[:, 10] = (by_own * log_base).sum(axis=(1, 2))
    gradients[:, 10] += (by_rest * (pasts.log_base_rest[at] + found.others_mean)).sum(axis=1)
    gradients[:, -1] = -log_prob.sum(axis=(1, 2)) / num_known[:, 0]
    return gradients
