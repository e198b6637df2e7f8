"""Server optimizers: what the server does with the cohort's mean update.

Each takes the mean update (minus the pseudo-gradient) and returns new weights. Weights are
dicts of float32 arrays; slots are dicts of such dicts. Source: Reddi et al. 2021
(arXiv:2003.00295), Algorithm 2, with the bias correction of Keras' Adam. Epsilon is Keras' for
Adam, the paper's for Yogi and Adagrad.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from fedgru.core.types import AnyFloats, Floats, Weights

BLOCK = 1 << 15  # weights, 128 KiB of each array

Slots: TypeAlias = dict[str, Any]  # name of a slot -> {name of a weight -> array}; "step" -> int


@dataclass(frozen=True)
class SGD:
    """weights + lr * update; with momentum mu: velocity = mu * velocity + lr * update."""

    lr: float
    momentum: float = 0.0

    def init(self, weights: Weights) -> Slots:
        return {"velocity": _zeros(weights)} if self.momentum else {}

    def apply(self, weights: Weights, update: Weights, slots: Slots) -> tuple[Weights, Slots]:
        """Return new weights and slots."""
        step = {name: np.float32(self.lr) * u for name, u in update.items()}
        if self.momentum:
            mu = np.float32(self.momentum)
            step = {name: mu * slots["velocity"][name] + s for name, s in step.items()}
            slots = {"velocity": step}
        return {name: w + step[name] for name, w in weights.items()}, slots


@dataclass(frozen=True)
class Adam:
    """Kingma and Ba 2015 as Keras computes it; with `yogi`, Zaheer et al. 2018.

    In Yogi the second moment v moves towards g^2 by a step whose size does not depend on v, so it
    cannot shrink fast: v - (1 - beta_2) * sign(v - g^2) * g^2.
    """

    lr: float
    yogi: bool = False
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def init(self, weights: Weights) -> Slots:
        return {"m": _zeros(weights), "v": _zeros(weights), "step": 0}

    def apply(self, weights: Weights, update: Weights, slots: Slots) -> tuple[Weights, Slots]:
        """Return new weights and slots."""
        step = slots["step"] + 1
        keep_1, keep_2 = np.float32(1 - self.beta_1), np.float32(1 - self.beta_2)
        rate = np.float32(self.lr * np.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step))

        def move(
            weight: Floats, m: Floats, v: Floats, u: Floats
        ) -> tuple[AnyFloats, Floats, Floats]:
            square = u * u
            m = m + keep_1 * (u - m)
            if self.yogi:
                v = v - keep_2 * np.sign(v - square) * square
            else:
                v = v + keep_2 * (square - v)
            return weight + rate * m / (np.sqrt(v) + self.epsilon), m, v

        new, m, v = {}, {}, {}
        for name, u in update.items():
            new[name], m[name], v[name] = _in_blocks(
                move, weights[name], slots["m"][name], slots["v"][name], u
            )
        return new, {"m": m, "v": v, "step": step}


@dataclass(frozen=True)
class Adagrad:
    """FedAdagrad: v + g^2 only grows; weights + lr * update / (sqrt(v) + epsilon).

    There is no momentum, and v is epsilon^2 at first, as in the paper's experiments.
    """

    lr: float
    epsilon: float = 1e-3

    def init(self, weights: Weights) -> Slots:
        start = np.float32(self.epsilon**2)
        return {"v": {name: np.full_like(w, start) for name, w in weights.items()}}

    def apply(self, weights: Weights, update: Weights, slots: Slots) -> tuple[Weights, Slots]:
        """Return new weights and slots."""
        rate, epsilon = np.float32(self.lr), np.float32(self.epsilon)

        def move(weight: Floats, v: Floats, u: Floats) -> tuple[AnyFloats, Floats]:
            v = v + u * u
            return weight + rate * u / (np.sqrt(v) + epsilon), v

        new, v = {}, {}
        for name, u in update.items():
            new[name], v[name] = _in_blocks(move, weights[name], slots["v"][name], u)
        return new, {"v": v}


@dataclass(frozen=True)
class Falling:
    """Another optimizer whose learning rate falls in a line: in round r it is lr (1 - (r-1) / n).

    Attributes:
        optimizer: SGD, Adam or Adagrad, with the rate of round 1.
        rounds: n, after which the rate is zero.
    """

    optimizer: "SGD | Adam | Adagrad"
    rounds: int

    def init(self, weights: Weights) -> Slots:
        return {"step": 0} | self.optimizer.init(weights)

    def apply(self, weights: Weights, update: Weights, slots: Slots) -> tuple[Weights, Slots]:
        """Return new weights and slots."""
        done = slots["step"]
        rate = self.optimizer.lr * max(0.0, 1 - done / self.rounds)
        weights, slots = replace(self.optimizer, lr=rate).apply(weights, update, slots)
        return weights, slots | {"step": done + 1}


ServerOptimizer: TypeAlias = SGD | Adam | Adagrad | Falling


def _in_blocks(move: Callable[..., tuple[AnyFloats, ...]], *arrays: Floats) -> list[Floats]:
    """Return new arrays for all but the last one, the update, from an elementwise function.

    The function gets one block of each array at a time, so its intermediate results stay in the
    processor's cache; a table of all venues is far larger.

    Args:
        move: function of as many float32 arrays; returns new values for all but the last.
        arrays: float32, of one shape.
    """
    flat = [np.reshape(array, -1) for array in arrays]
    results = [np.empty_like(array) for array in flat[:-1]]
    for begin in range(0, len(flat[0]), BLOCK):
        block = slice(begin, begin + BLOCK)
        for result, values in zip(results, move(*(array[block] for array in flat)), strict=True):
            result[block] = values
    return [result.reshape(np.shape(arrays[0])) for result in results]


def _zeros(weights: Weights) -> Weights:
    return {name: np.zeros_like(w) for name, w in weights.items()}
