"""fedgru/algorithms/compressed.py: quantisation by hand and on average, feedback by hand."""

from dataclasses import replace

import numpy as np
import pytest

from fedgru import algorithms, config
from fedgru.algorithms.compressed import BUCKET, Compressed, Compressor, WithFeedback, quantise
from fedgru.algorithms.fed_avg import FedAvg
from fedgru.algorithms.per_client import Visit, as_own
from fedgru.algorithms.server_optimizers import SGD
from fedgru.core.errors import ConfigError
from fedgru.engines import registry
from tests.algorithms.test_algorithms import WEIGHTS, update


class Always:
    """Draws that are always the same share."""

    def __init__(self, share):
        self.share = share

    def random(self, shape, _):
        return np.full(shape, self.share, np.float32)


def test_quantisation_by_hand():
    values = np.array([1.0, -0.4, 0.0, 0.5], np.float32)
    # 2 bits: -1, 0 and 1 times the largest; -0.4 lies 0.6 above -1, 0.5 lies 0.5 above 0
    assert quantise(values, 2, Always(0.45)).tolist() == [1.0, 0.0, 0.0, 1.0]
    assert quantise(values, 2, Always(0.55)).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert quantise(values, 2, Always(0.65)).tolist() == [1.0, -1.0, 0.0, 0.0]
    # 4 bits: sevenths; -0.4 * 7 = -2.8 lies 0.2 above -3
    assert quantise(values, 4, Always(0.1))[1] == pytest.approx(-2 / 7)
    assert quantise(values, 4, Always(0.3))[1] == pytest.approx(-3 / 7)


def test_buckets_have_scales_of_their_own():
    values = np.concatenate([np.full(BUCKET, 1e-3), [5.0]]).astype(np.float32)
    found = quantise(values, 2, Always(0.5))
    assert found.tolist() == values.tolist()  # each number is the largest of its bucket
    assert quantise(np.zeros(3, np.float32), 8, Always(0.5)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_it_is_right_on_average(bits):
    draw = np.random.default_rng(0)
    values = draw.normal(size=50).astype(np.float32)
    mean = np.mean([quantise(values, bits, draw) for _ in range(4000)], axis=0)
    step = np.abs(values).max() / (2 ** (bits - 1) - 1)
    assert mean == pytest.approx(values, abs=5 * step / 2 / np.sqrt(4000))


def visit(kept=None, round_num=0):
    algorithm = FedAvg(SGD(1.0))
    state = replace(algorithm.init(WEIGHTS), round_num=round_num)
    return Visit(0, np.array([0], np.int32), state, kept)


def test_what_is_not_sent_comes_later():
    algorithm = WithFeedback(FedAvg(SGD(1.0)), Compressor(share=0.4), 0)
    # two numbers, of which one is sent: bias 1, then row 3
    first, kept = algorithm.finish(visit(), None, update(0, 1, 1.0, [0], [3.0]))
    assert (first.dense["bias"].tolist(), first.row_update.tolist()) == ([0.0], [[3.0]])
    assert (kept["bias"].tolist(), kept["rows"].tolist()) == ([1.0], [[0.0]])
    # 1 + 1.5 is now more than 2
    second, kept = algorithm.finish(visit(kept, 1), None, update(0, 1, 1.5, [0], [2.0]))
    assert (second.dense["bias"].tolist(), second.row_update.tolist()) == ([2.5], [[0.0]])
    assert (kept["bias"].tolist(), kept["rows"].tolist()) == ([0.0], [[2.0]])


def test_clients_and_rounds_are_rounded_by_draws_of_their_own():
    algorithm = Compressed(FedAvg(SGD(1.0)), Compressor(bits=2), 0)
    many = np.linspace(-1, 1, 400, dtype=np.float32)

    def sent(client, round_num):
        one = replace(update(client, 1, 1.0, [0], [0.0]), dense={"bias": many})
        return as_own(algorithm.finish(visit(round_num=round_num), None, one)[0])["bias"].tolist()

    assert sent(0, 1) == sent(0, 1)
    assert sent(0, 1) != sent(1, 1) != sent(0, 2)


@pytest.mark.parametrize("text", ["16-bit", "top-0%", "top-5", "top-100%", "", "top-x%"])
def test_what_compress_can_be(text):
    with pytest.raises(ConfigError, match="expected 8-bit, 4-bit, 2-bit, or the share"):
        algorithms.from_settings(config.load({"compress": text}))


def test_the_setting_alone_is_enough():
    settings = config.load({"compress": "top-2.5%"})
    algorithm = algorithms.from_settings(settings)
    assert settings.algorithm.algorithm == "compressed" and algorithm.keeps
    assert algorithm.compressor == Compressor(share=0.025)
    assert not algorithms.from_settings(config.load({"algorithm": "compressed"})).keeps
    with pytest.raises(ConfigError, match="`compress` has no effect with `algorithm` scaffold"):
        given = {"compress": "8-bit", "algorithm": "scaffold", "client_optimizer": "sgd"}
        registry.check(config.load(given))
