"""Compressed updates: stochastic quantisation, or the largest numbers with error feedback."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fedgru.algorithms.client_start import ClientStart, OwnWeights
from fedgru.algorithms.fed_avg import ClientUpdate, FedAvg
from fedgru.algorithms.per_client import Arrays, PerClient, Visit, as_own, with_arrays
from fedgru.algorithms.sent import Sent
from fedgru.config.settings import short
from fedgru.core import seeding
from fedgru.core.errors import ConfigError
from fedgru.core.types import Floats, Ints

BUCKET = 1024  # numbers that share a scale
FLOAT_BYTES = INDEX_BYTES = 4


@dataclass(frozen=True)
class Compressor:
    """How the numbers of an update are sent.

    Attributes:
        bits: of each number; 32 for a part of the numbers as they are.
        share: of the numbers that are sent, the largest ones; 1 for all.
    """

    bits: int = 32
    share: float = 1.0

    def bytes_of(self, number: Ints) -> Ints:
        """Return int64, the size in bytes of a number of values.

        A scale of four bytes for each bucket of 1,024; with a share, an index of four bytes beside
        each number that is sent.

        >>> Compressor(bits=2).bytes_of(np.array([2048]))
        array([520])
        >>> Compressor(share=0.1).bytes_of(np.array([95]))
        array([80])
        """
        number = np.asarray(number, np.int64)
        if self.share < 1.0:
            return self.number_sent(number) * (INDEX_BYTES + FLOAT_BYTES)
        return -(-number * self.bits // 8) + FLOAT_BYTES * -(-number // BUCKET)

    def number_sent(self, number: Ints) -> Ints:
        """Return how many values of an update are sent, at least one."""
        return np.ceil(self.share * number).astype(np.int64)

    def apply(self, values: Floats, draw: np.random.Generator) -> Floats:
        """Return float32 [n]: what the server unpacks from what a client makes of float32 [n]."""
        return self._largest(values) if self.share < 1.0 else quantise(values, self.bits, draw)

    def _largest(self, values: Floats) -> Floats:
        kept = int(self.number_sent(np.asarray(len(values))))
        order = np.argsort(-np.abs(values), kind="stable")[:kept]
        found = np.zeros_like(values)
        found[order] = values[order]
        return found


def quantise(values: Floats, bits: int, draw: np.random.Generator) -> Floats:
    """Return float32 [n], rounded to 2^bits - 1 levels at random, right on average.

    In each bucket the levels are evenly spaced from minus to plus its largest absolute value. A
    value between two goes to the upper one with probability of its distance to the lower one. With
    2 bits there are three levels: -1, 0 and 1 times the largest.

    Args:
        values: float32 [n].
        bits: 2 or more.
        draw: numpy Generator.

    Source: Alistarh et al. 2017 (arXiv:1610.02132), section 3.1, with buckets as in section 4; the
        scale is the largest absolute value instead of the norm.
    """
    steps = 2 ** (bits - 1) - 1
    padded = np.zeros(-(-len(values) // BUCKET) * BUCKET, np.float32)
    padded[: len(values)] = values
    buckets = padded.reshape(-1, BUCKET)
    scales = np.abs(buckets).max(axis=1, keepdims=True)
    scaled = buckets / np.where(scales > 0, scales, 1) * np.float32(steps)
    lower = np.floor(scaled)
    level = lower + (draw.random(scaled.shape, np.float32) < scaled - lower)
    return (level * (scales / np.float32(steps))).ravel()[: len(values)].astype(np.float32)


class Compressed(PerClient):
    """Each client quantises its update before it sends it; weights are received as they are.

    Args:
        server_half: FedAvg or a subclass.
        compressor: Compressor.
        seed: of the rounding.

    Source: Alistarh et al. 2017 (arXiv:1610.02132), Algorithm 1.
    """

    name: ClassVar[str] = "compressed"

    def __init__(self, server_half: FedAvg, compressor: Compressor, seed: int) -> None:
        super().__init__(server_half)
        self.compressor, self._seed = compressor, seed
        self.sent = Sent(pack=compressor.bytes_of)

    def finish(
        self, visit: Visit, start: ClientStart | None, update: ClientUpdate
    ) -> tuple[ClientUpdate, Arrays | None]:
        return self._pack(visit, _join(as_own(update)), update)[0], None

    def _pack(
        self, visit: Visit, values: Floats, update: ClientUpdate
    ) -> tuple[ClientUpdate, Floats]:
        """Return what is sent of some numbers, as an update like another, and as float32 [n]."""
        draw = seeding.rng(self._seed, "compression", visit.state.round_num + 1, update.client)
        packed = self.compressor.apply(values, draw)
        return with_arrays(update, _split(packed, as_own(update))), packed


class WithFeedback(Compressed):
    """Sends the largest numbers; what is not sent is kept and added to the client's next update.

    Source: Stich et al. 2018 (arXiv:1809.07599), Algorithm 1, with updates for gradients.
    """

    keeps: ClassVar[bool] = True

    def finish(
        self, visit: Visit, start: ClientStart | None, update: ClientUpdate
    ) -> tuple[ClientUpdate, Arrays | None]:
        values = _join(as_own(update))
        if visit.kept is not None:
            values = values + _join(visit.kept)
        sent, packed = self._pack(visit, values, update)
        return sent, _split(values - packed, as_own(update))


def make(server_half: FedAvg, text: str, seed: int) -> Compressed:
    """Return the algorithm of the setting `compress`, see `parse`."""
    compressor = parse(text)
    kind = WithFeedback if compressor.share < 1.0 else Compressed
    return kind(server_half, compressor, seed)


def _join(arrays: Mapping[str, Any]) -> Floats:
    """Return float32 [n], the numbers of some arrays, in the order of their names."""
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)])


def _split(values: Floats, like: Mapping[str, Any]) -> OwnWeights:
    """The inverse of `_join`, with the names and shapes of `like`."""
    found, begin = {}, 0
    for name in sorted(like):
        shape = like[name].shape
        size = math.prod(shape)
        found[name] = values[begin : begin + size].reshape(shape)
        begin += size
    return found


def parse(text: str) -> Compressor:
    """Return the Compressor of the setting `compress`: 8-bit, 4-bit, 2-bit, or top-5%.

    >>> parse("4-bit"), parse("top-5%")
    (Compressor(bits=4, share=1.0), Compressor(bits=32, share=0.05))

    Raises:
        ConfigError: for anything else.
    """
    if text in ("8-bit", "4-bit", "2-bit"):
        return Compressor(bits=int(text[0]))
    found = re.fullmatch(r"top-(\d{1,2}(\.\d{1,4})?)%", text)
    if found is None or not float(found[1]):
        raise ConfigError(
            f"`compress` is {short(text)}, expected 8-bit, 4-bit, 2-bit, or the share of the "
            "numbers that is sent, such as top-5%."
        )
    return Compressor(share=float(found[1]) / 100)
