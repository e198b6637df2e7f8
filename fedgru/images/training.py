"""Training the image network: target head, protected heads, and methods that hide the context."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedgru.agnostic import erasure, objective
from fedgru.agnostic.schedules import share_at
from fedgru.config.methods import Method
from fedgru.core import seeding
from fedgru.core.errors import TrainingError
from fedgru.core.jax_setup import import_jax
from fedgru.core.types import AnyArray, AnyInts, AnyWeights, Doubles, Floats, Weights
from fedgru.images import steps as image_steps
from fedgru.images.data import ImageData
from fedgru.images.settings import ImageSettings
from fedgru.models import cnn, heads
from fedgru.models.optimizers import Optimizer

CHUNK = 256  # images represented at once

Images: TypeAlias = npt.NDArray[np.uint8]  # [n, height, width, channels]
Slots: TypeAlias = tuple[Weights, Weights]  # first and second moments


@dataclass(frozen=True)
class Network:
    """A trained network.

    Attributes:
        spec: CnnSpec.
        weights: dict of float32 arrays: extractor, target head, protected heads.
        noise: standard deviation of the noise on the representation; each use draws new noise.
        eraser: erasure.Eraser between extractor and heads, or None.
    """

    spec: cnn.CnnSpec
    weights: Weights
    noise: float = 0.0
    eraser: erasure.Eraser | None = None

    def represent(self, images: Images, rng: np.random.Generator) -> Floats:
        """Return float32 [n, out_dim]: the input of heads and probes; noise included.

        Args:
            images: uint8 [n, height, width, channels]; of larger images the centre is taken.
            rng: numpy Generator, for the noise.
        """
        z = self.mean_representation(images)
        if self.noise:
            z = z + np.float32(self.noise) * rng.standard_normal(z.shape, np.float32)
        return z

    def mean_representation(self, images: Images) -> Floats:
        """Return float32 [n, out_dim]: the representation without noise, for comparison only."""
        run = _compiled_represent(self.spec)
        own = heads.split_heads(self.weights)[0]
        images = centre_crop(images, self.spec.image_shape[0])
        parts = [np.asarray(run(own, part)) for part in _chunks(images)]
        z = np.concatenate(parts)[: len(images)]
        return z if self.eraser is None else self.eraser(z)

    def target_scores(self, representation: Floats) -> Floats:
        """Return float32 [n, num_classes], the target head's scores."""
        return np.asarray(cnn.classify(self.spec, self.weights, representation))

    def context_scores(self, representation: Floats) -> Floats:
        """Return float32 [n, num_contexts], the mean of the protected heads' scores."""
        adversaries = {
            int(name.split("_")[1]) for name in self.weights if name.startswith(heads.PREFIX)
        }
        scores = [heads.apply_head(self.weights, i, representation) for i in sorted(adversaries)]
        return np.mean(scores, axis=0)


def make_spec(settings: ImageSettings, data: ImageData) -> cnn.CnnSpec:
    """Return the CnnSpec of ImageSettings and ImageData."""
    size = settings.crop_size or settings.image_size
    return cnn.CnnSpec(
        image_shape=(size, size, data.image_shape[2]),
        channels=settings.channel_list,
        representation_dim=settings.representation_dim,
        head_dims=settings.head_dims,
        num_classes=len(data.target_names),
        dropout=settings.dropout,
    )


def train(
    settings: ImageSettings,
    data: ImageData,
    method: Method,
    trade_off: objective.TradeOff,
    seed: int,
    on_epoch: Callable[[int, Network], object] | None = None,
) -> Network:
    """Train one network with a target head, and protected heads for the context.

    At strength 0 the extractor and the target head are trained as in `train_ordinary`, by the same
    compiled step and draws. The protected heads are trained on the resulting representation.

    Args:
        settings: ImageSettings.
        data: ImageData.
        method: Method.
        trade_off: `fedgru.agnostic.objective.TradeOff`; the settings have its schedule.
        seed: int.
        on_epoch: called with (epoch, Network) after each epoch, from 1.

    Returns:
        Network.

    Raises:
        TrainingError: if a loss is not a number.

    Source: Jia et al. 2018, equation (1), for method `reversal`. Differences: the protected
        heads' own gradient is not multiplied by alpha, see `fedgru.agnostic.objective`; and
        alpha can follow a schedule.
    """
    spec = make_spec(settings, data)
    if trade_off.value == 0:
        method = replace(type(method)(), adversaries=max(method.adversaries, 1))
    run = _Run(settings, spec, data, method, trade_off, seed)
    for epoch in range(1, settings.epochs + 1):
        run.epoch(epoch)
        if on_epoch is not None:
            on_epoch(epoch, run.network())
    return run.network()


def train_ordinary(
    settings: ImageSettings,
    images: Images,
    labels: AnyInts,
    num_classes: int,
    seed: int,
    on_epoch: Callable[[int, Network], object] | None = None,
) -> Network:
    """Train a network with only a target head, by the ordinary loss.

    Args:
        settings: ImageSettings.
        images: uint8 [n, height, width, channels].
        labels: int32 [n].
        num_classes: number of classes.
        seed: int.
        on_epoch: called with (epoch, Network) after each epoch, from 1.

    Returns:
        Network.
    """
    size = settings.crop_size or settings.image_size
    spec = cnn.CnnSpec(
        (size, size, images.shape[3]),
        settings.channel_list,
        settings.representation_dim,
        settings.head_dims,
        num_classes,
        settings.dropout,
    )
    weights = cnn.init_weights(spec, seeding.rng(seed, "image weights"))
    state = (weights, _zero_slots(weights))
    step = image_steps.target_epoch(spec, _optimizer(settings), settings.flips)
    for epoch in range(1, settings.epochs + 1):
        order = _order(seed, "target order", epoch, len(images), settings.batch_size)
        key, lr = _key(seed, "target step", epoch), _lr(settings, epoch)
        state, losses = step(state, images, labels, order, lr, epoch, key)
        _check_finite(losses, epoch, settings.lr)
        if on_epoch is not None:
            on_epoch(epoch, Network(spec, _to_numpy(state[0])))
    return Network(spec, _to_numpy(state[0]))


class _Run:
    """One training: its state between epochs."""

    def __init__(
        self,
        settings: ImageSettings,
        spec: cnn.CnnSpec,
        data: ImageData,
        method: Method,
        trade_off: objective.TradeOff,
        seed: int,
    ) -> None:
        self.settings, self.spec, self.method = settings, spec, method
        self.trade_off, self.seed = trade_off, seed
        self.targets, self.contexts = data.sets["train"], data.sets["context_train"]
        self.num_contexts = len(data.context_names)
        own = cnn.init_weights(spec, seeding.rng(seed, "image weights"))
        protected = self._fresh_heads(0)
        self.weights = own | protected
        self.own_slots, self.head_slots = _zero_slots(own), _zero_slots(protected)
        self.eraser: erasure.Eraser | None = None
        self.draw_shares: Doubles | None = None
        if method.decorrelate:
            self.draw_shares = self._independent_shares()

    def network(self) -> Network:
        noise = self.trade_off.value * self.method.noise
        return Network(self.spec, _to_numpy(self.weights), noise, self.eraser)

    def epoch(self, epoch: int) -> None:
        settings, method = self.settings, self.method
        targets, contexts = self.targets, self.contexts
        order = _order(
            self.seed, "target order", epoch, len(targets), settings.batch_size, self.draw_shares
        )
        context_order = _order(
            self.seed, "context order", epoch, len(contexts), settings.context_batch_size
        )
        context_order = np.resize(context_order, (len(order), settings.context_batch_size))
        lr, recipe = _lr(settings, epoch), _optimizer(settings)
        heads_only = self.trade_off.value == 0
        if heads_only:
            own, protected = heads.split_heads(self.weights)
            step = image_steps.target_epoch(self.spec, recipe, settings.flips)
            (own, self.own_slots), losses = step(
                (own, self.own_slots),
                targets.images,
                targets.target,
                order,
                lr,
                epoch,
                _key(self.seed, "target step", epoch),
            )
            _check_finite(losses, epoch, settings.lr)
            self.weights = own | protected
        step = image_steps.agnostic_epoch(
            self.spec,
            recipe,
            settings.flips,
            method,
            self.num_contexts,
            heads_only,
            self.trade_off.kind,
        )
        (self.weights, self.own_slots, self.head_slots), losses = step(
            (self.weights, self.own_slots, self.head_slots),
            (
                (targets.images, targets.target, targets.context),
                (contexts.images, contexts.context),
                order,
                context_order,
            ),
            self._strengths(epoch, len(order)),
            self._erasing(),
            lr,
            epoch,
            _key(self.seed, "head step", epoch),
        )
        _check_finite(losses, epoch, settings.lr)
        self._reset_a_head(epoch)
        if method.erase:
            self._fit_eraser(epoch)

    def _strengths(self, epoch: int, steps: int) -> Floats:
        """Return float32 [steps]: alpha, or lambda, at each step of an epoch."""
        first, last = (epoch - 1) * steps, max(self.settings.epochs * steps - 1, 1)
        schedule = self.settings.alpha_schedule
        return np.array(
            [self.trade_off.at(share_at(schedule, (first + i) / last)) for i in range(steps)],
            np.float32,
        )

    def _erasing(self) -> tuple[Floats, Floats] | None:
        if not self.method.erase:
            return None
        dim = self.spec.out_dim
        if self.eraser is None:
            return np.zeros(dim, np.float32), np.zeros((dim, dim), np.float32)
        return self.eraser.mean.astype(np.float32), self.eraser.removed.astype(np.float32)

    def _fit_eraser(self, epoch: int) -> None:
        """Fit erasure on targets drawn so that target and context are independent.

        If the context of targets is unknown, it is fitted on context images only.
        """
        part, shares = self.contexts, self._independent_shares()
        if shares is not None:
            rng = seeding.rng(self.seed, "erasure draw", epoch)
            drawn = rng.choice(len(shares), len(shares), p=shares)
            part = self.targets.where(drawn)
        self.eraser = None
        z = self.network().mean_representation(part.images)
        moments = erasure.Moments.of(z, part.context, self.num_contexts)
        self.eraser = erasure.fit_eraser(moments)

    def _independent_shares(self) -> Doubles | None:
        """Return probabilities of drawing each target that make target and context independent.

        None if that is impossible: a context is unknown, or a pair of classes does not occur.
        """
        targets, contexts = self.targets.target, self.targets.context
        sizes = self.spec.num_classes, self.num_contexts
        if (contexts < 0).any() or len(set(zip(targets, contexts, strict=True))) < np.prod(sizes):
            return None
        shares = objective.decorrelating_weights(targets, contexts, *sizes).astype(np.float64)
        return shares / shares.sum()

    def _fresh_heads(self, generation: int) -> Weights:
        rng = seeding.rng(self.seed, "protected heads", generation)
        dims = self.settings.head_dims
        count = max(self.method.adversaries, 1)
        return heads.init_heads(rng, count, self.spec.out_dim, dims, self.num_contexts)

    def _reset_a_head(self, epoch: int) -> None:
        """Initialise one head again, each in turn, at the ends of evenly spaced epochs."""
        per_epoch = self.method.resets / self.settings.epochs
        number = int(epoch * per_epoch)
        if epoch == self.settings.epochs or number == int((epoch - 1) * per_epoch):
            return
        adversary = number % self.method.adversaries
        fresh = self._fresh_heads(epoch)
        self.weights = heads.reset_head(self.weights, adversary, fresh)
        zeros = _zero_slots(fresh)
        first, second = (
            heads.reset_head(slots, adversary, zero)
            for slots, zero in zip(self.head_slots, zeros, strict=True)
        )
        self.head_slots = first, second


@cache
def _compiled_represent(spec: cnn.CnnSpec) -> Callable[[AnyWeights, AnyArray], AnyArray]:
    jax = import_jax()
    return jax.jit(lambda weights, images: cnn.represent(spec, weights, images))


def centre_crop(images: Images, crop: int) -> Images:
    """Return the centre of images [n, height, width, channels], `crop` rows and columns."""
    spare = images.shape[1] - crop
    return images[:, spare // 2 : spare // 2 + crop, spare // 2 : spare // 2 + crop]


def _optimizer(settings: ImageSettings) -> Optimizer:
    return settings.optimizer, settings.momentum, settings.weight_decay


def _zero_slots(weights: Weights) -> Slots:
    zeros = {name: np.zeros_like(w) for name, w in weights.items()}
    return zeros, dict(zeros)


def _order(
    seed: int, purpose: str, epoch: int, count: int, batch_size: int, shares: Doubles | None = None
) -> npt.NDArray[np.int32]:
    """Return int32 [steps, batch_size], an epoch's batches; an incomplete last one is dropped."""
    rng = seeding.rng(seed, purpose, epoch)
    batch_size = min(batch_size, count)
    steps = count // batch_size
    if shares is None:
        drawn = rng.permutation(count)[: steps * batch_size]
    else:
        drawn = rng.choice(count, steps * batch_size, p=shares)
    return drawn.reshape(steps, batch_size).astype(np.int32)


def _lr(settings: ImageSettings, epoch: int) -> np.float32:
    return np.float32(settings.lr * 0.1 ** ((epoch - 1) // settings.lr_drop_every))


def _key(seed: int, purpose: str, epoch: int) -> AnyArray:
    return import_jax().random.wrap_key_data(seeding.key_words(seed, purpose, epoch))


def _check_finite(losses: AnyArray, epoch: int, lr: float) -> None:
    losses = np.asarray(losses)
    if not np.isfinite(losses).all():
        step = int(np.flatnonzero(~np.isfinite(losses))[0]) + 1
        raise TrainingError(
            f"training loss became NaN in epoch {epoch}, step {step}. Try a smaller `lr` (now "
            f"{lr:g})."
        )


def _to_numpy(weights: AnyWeights) -> Weights:
    return {name: np.asarray(w) for name, w in weights.items()}


def _chunks(images: Images) -> Iterator[Images]:
    """Yield parts of one size, the last one padded, so that one compiled program fits all."""
    for start in range(0, len(images), CHUNK):
        part = images[start : start + CHUNK]
        if len(part) < CHUNK and len(images) > CHUNK:
            part = np.concatenate([part, np.repeat(part[-1:], CHUNK - len(part), 0)])
        yield part
