"""Objective, schedules, heads, independence, erasure and methods of agnostic training."""

import math

import numpy as np
import pytest

from fedgru.agnostic import erasure, independence, objective, schedules
from fedgru.config import methods
from fedgru.core.errors import ConfigError
from fedgru.core.jax_setup import import_jax
from fedgru.models import heads

jax = import_jax()
jnp = jax.numpy


def test_reversal_is_the_identity_forward_and_turns_the_gradient():
    # d/dx of x^2 at 3 is 6; reversed with weight 0.5: -3
    value, gradient = jax.value_and_grad(lambda x: objective.reverse_gradient(x, 0.5) ** 2)(3.0)
    assert (value, gradient) == (9.0, -3.0)


def test_objective_by_hand():
    # One example, one-dimensional x = 2, extractor z = f x with f = 1, linear heads without bias:
    # target scores (z y, 0) with y = 1, label 0; protected scores (z p, 0) with p = -1, label 0.
    # L_y = log(1 + e^-2), dL_y/dz = -s(-2) = -0.1192029;  L_p = log(1 + e^2), dL_p/dz = s(2) =
    # 0.8807971, dL_p/dp = -s(2) * z = -1.7615942. alpha = 0.3:
    # dE/df = x * (0.7 * -0.1192029 - 0.3 * 0.8807971) = 2 * (-0.0834420 - 0.2642391) = -0.6953623
    def loss(f, y, p):
        z = f * 2.0
        target_weight, reversal = objective.loss_weights("alpha", 0.3)
        zero = jnp.zeros(())
        target = objective.mean_cross_entropy(jnp.stack([z * y, zero])[None], *_one())
        turned = objective.reverse_gradient(z, reversal)
        protected = objective.mean_cross_entropy(jnp.stack([turned * p, zero])[None], *_one())
        return target_weight * target + protected

    d_f, d_y, d_p = jax.grad(loss, argnums=(0, 1, 2))(1.0, 1.0, -1.0)
    assert d_f == pytest.approx(-0.6953623, rel=1e-5)
    assert d_y == pytest.approx(0.7 * -0.1192029 * 2, rel=1e-5)
    assert d_p == pytest.approx(-0.8807971 * 2, rel=1e-5)  # the head's own step is not scaled


def _one():
    return jnp.zeros(1, jnp.int32), jnp.ones(1)


def test_objective_against_finite_differences():
    generator = np.random.default_rng(0)
    x, kernel = generator.normal(size=(6, 3)), generator.normal(size=(3, 4))
    target, protected = generator.integers(0, 2, 6), generator.integers(0, 3, 6)
    to_y, to_p = generator.normal(size=(4, 2)), generator.normal(size=(4, 3))
    alpha, weights = 0.6, jnp.asarray([1.0, 1, 1, 0, 2, 1])

    def parts(kernel, reversal):
        z = jnp.tanh(jnp.asarray(x, jnp.float32) @ kernel)
        turned = z if reversal is None else objective.reverse_gradient(z, reversal)
        return (
            objective.mean_cross_entropy(z @ to_y, jnp.asarray(target), weights),
            objective.mean_cross_entropy(turned @ to_p, jnp.asarray(protected), weights),
        )

    def trained(kernel):
        target_weight, reversal = objective.loss_weights("alpha", alpha)
        l_y, l_p = parts(kernel, reversal)
        return target_weight * l_y + l_p

    def equation_1(kernel):  # the scalar whose gradient the extractor is to descend
        l_y, l_p = parts(jnp.asarray(kernel, jnp.float32), None)
        return float((1 - alpha) * l_y - alpha * l_p)

    found = np.asarray(jax.grad(trained)(jnp.asarray(kernel, jnp.float32)))
    step = 1e-2
    for at in np.ndindex(kernel.shape):
        moved = [kernel.copy(), kernel.copy()]
        moved[0][at] += step
        moved[1][at] -= step
        slope = (equation_1(moved[0]) - equation_1(moved[1])) / (2 * step)
        assert found[at] == pytest.approx(slope, abs=2e-3)


def test_weights_of_zero_leave_examples_out():
    scores = jnp.asarray([[2.0, 0.0], [0.0, 5.0]])
    # -log s(2) = log(1 + e^-2) = 0.1269280
    found = objective.mean_cross_entropy(scores, jnp.asarray([0, -1]), jnp.asarray([1.0, 0.0]))
    assert float(found) == pytest.approx(0.1269280, rel=1e-5)
    assert float(objective.mean_cross_entropy(scores, jnp.asarray([0, 0]), jnp.zeros(2))) == 0.0


def test_confusion_is_zero_only_when_the_head_is_uniform():
    weights = jnp.ones(1)
    assert float(objective.mean_confusion(jnp.full((1, 4), 7.0), weights)) == pytest.approx(0.0)
    # scores (log 3, 0): p = 3/4, 1/4; KL(uniform | p) = -(log(3/4) + log(1/4)) / 2 - log 2
    expected = -(math.log(0.75) + math.log(0.25)) / 2 - math.log(2)
    found = objective.mean_confusion(jnp.asarray([[math.log(3), 0.0]]), weights)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_lambda_form_is_the_paper_form_scaled():
    # (1 - alpha, alpha) / (1 - alpha) = (1, alpha / (1 - alpha)): 0.2 gives 0.25
    target_weight, reversal = objective.loss_weights("alpha", 0.2)
    assert objective.loss_weights("lambda", reversal / target_weight) == (1.0, pytest.approx(0.25))


def test_schedules():
    # Ganin at 0.3: 2 / (1 + e^-3) - 1 = 0.9051483
    share = schedules.share_at
    assert share("constant", 0.0) == 1.0
    assert share("linear", 0.25) == 0.25
    assert share("ganin", 0.3) == pytest.approx(0.9051483)
    assert share("warm-up", 0.3) == 0.0
    assert share("warm-up", 0.65) == pytest.approx(0.5)  # half of the way from 0.3 to 1
    with pytest.raises(ConfigError) as error:
        share("linear", 1.5)
    assert str(error.value) == "progress is 1.5, expected 0 to 1."


def test_trade_off_is_alpha_or_lambda():
    # a quarter of the way to 0.8 is 0.2: the target keeps 0.8 of its weight, or all of it
    alpha, weight = objective.TradeOff("alpha", 0.8), objective.TradeOff("lambda", 0.8)
    assert alpha.at(0.25) == weight.at(0.25) == 0.2
    assert alpha.loss_weights(0.2) == (0.8, 0.2)
    assert weight.loss_weights(0.2) == (1.0, 0.2)
    assert objective.TradeOff("lambda", 3.0).loss_weights(3.0) == (1.0, 3.0)
    for kind, value, expected in (("alpha", 1.5, "0 to 1"), ("lambda", -0.5, "0 or more")):
        with pytest.raises(ConfigError) as error:
            objective.TradeOff(kind, value)
        assert str(error.value) == f"{kind} is {value}, expected {expected}."


def test_heads_are_what_they_say():
    rng = np.random.default_rng(1)
    weights = heads.init_heads(rng, 2, 3, (5,), 4)
    assert {name: w.shape for name, w in weights.items() if name.startswith("protected_1")} == {
        "protected_1_0_kernel": (3, 5),
        "protected_1_0_bias": (5,),
        "protected_1_1_kernel": (5, 4),
        "protected_1_1_bias": (4,),
    }
    z = rng.normal(size=(7, 3)).astype(np.float32)
    by_hand = np.maximum(z @ weights["protected_1_0_kernel"], 0) @ weights["protected_1_1_kernel"]
    np.testing.assert_allclose(heads.apply_head(weights, 1, z), by_hand, atol=1e-5)
    fresh = heads.init_heads(rng, 2, 3, (5,), 4)
    reset = heads.reset_head(weights, 0, fresh)
    assert reset["protected_0_0_kernel"] is fresh["protected_0_0_kernel"]
    assert reset["protected_1_0_kernel"] is weights["protected_1_0_kernel"]


def _slow_hsic(x, labels, weights):
    """The definition, with the centring matrix written out and examples repeated by weight."""
    x, labels = np.repeat(x, weights, axis=0), np.repeat(labels, weights)
    n = len(x)
    distance = ((x[:, None] - x[None]) ** 2).sum(-1)
    kernel = np.exp(-distance / distance.mean())
    concept = (labels[:, None] == labels[None]).astype(float)
    centre = np.eye(n) - 1 / n

    def hsic(a, b):
        return np.trace(a @ centre @ b @ centre)

    return hsic(kernel, concept) / np.sqrt(hsic(kernel, kernel) * hsic(concept, concept))


def test_hsic_is_its_definition():
    rng = np.random.default_rng(2)
    x, labels = rng.normal(size=(9, 2)), rng.integers(0, 3, 9)
    x[:, 0] += labels
    weights = np.array([1, 2, 0, 1, 1, 3, 1, 0, 1])
    found = independence.hsic(
        jnp.asarray(x, jnp.float32), jnp.asarray(labels), 3, jnp.asarray(weights, jnp.float32)
    )
    assert float(found) == pytest.approx(_slow_hsic(x, labels, weights), rel=1e-4)
    tripled = independence.hsic(
        3 * jnp.asarray(x, jnp.float32), jnp.asarray(labels), 3, jnp.asarray(weights, jnp.float32)
    )
    assert float(tripled) == pytest.approx(float(found), rel=1e-4)  # shrinking gains nothing


def test_conditional_hsic_forgives_what_the_target_tells():
    # z is the target, and the concept is the target in 15 of 16: dependent, but not given it
    targets = np.repeat([0, 1], 8)
    labels = targets.copy()
    labels[0] = 1
    z, w = jnp.asarray(targets[:, None], jnp.float32), jnp.ones(16)
    marginal = independence.hsic(z, jnp.asarray(labels), 2, w)
    given = independence.conditional_hsic(z, jnp.asarray(labels), 2, jnp.asarray(targets), 2, w)
    assert float(marginal) > 0.7
    assert float(given) == pytest.approx(0.0, abs=1e-6)


def test_fourier_features_give_the_gaussian_kernel():
    rng = np.random.default_rng(3)
    frequencies, phases = rng.normal(size=(2, 20000)), rng.uniform(0, 2 * np.pi, 20000)
    x = np.array([[0.3, -0.2], [1.0, 0.5]])
    features = np.asarray(
        independence.fourier_features(
            *(jnp.asarray(a, jnp.float32) for a in (x, frequencies, phases))
        )
    )
    # exp(-|x - y|^2 / 2) with |x - y|^2 = 0.49 + 0.49
    assert features[0] @ features[1] == pytest.approx(math.exp(-0.49), abs=0.02)


def test_explained_share_by_hand():
    # values 1, 3 of concept 0 and 7 of concept 1 around 3: sums -2 and 4,
    # between = 4/2 + 16/1 = 18, total = 4 + 0 + 16 = 20
    found = independence.explained_share(
        jnp.asarray([[1.0], [3.0], [7.0], [99.0]]),
        jnp.asarray([0, 0, 1, 1]),
        2,
        jnp.asarray([3.0]),
        jnp.asarray([1.0, 1.0, 1.0, 0.0]),
    )
    assert float(found) == pytest.approx(18 / 20)


def test_eraser_is_the_constrained_least_squares_solution():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, 400)
    x = rng.normal(size=(400, 5)) @ rng.normal(size=(5, 5)) + labels[:, None] * [1, 0, 2, 0, 0.5]
    x[:, 1] += (labels == 1) * 3
    eraser = erasure.fit_eraser(erasure.Moments.of(x, labels, 3))
    # min E|A x - x|^2 with A Sxz = 0, by Lagrange: A = I - Sxz (Sxz' S^-1 Sxz)^+ Sxz' S^-1
    z = np.eye(3)[labels]
    centred = x - x.mean(0)
    s, sxz = centred.T @ centred / 400, centred.T @ (z - z.mean(0)) / 400
    inverse = np.linalg.inv(s)
    kept = np.eye(5) - sxz @ np.linalg.pinv(sxz.T @ inverse @ sxz, rcond=1e-9) @ sxz.T @ inverse
    np.testing.assert_allclose(eraser(x), x.mean(0) + centred @ kept.T, atol=1e-4)
    means = [eraser(x)[labels == value].mean(0) for value in range(3)]
    np.testing.assert_allclose(means, np.broadcast_to(x.mean(0), (3, 5)), atol=1e-4)


def test_moments_of_clients_add_up():
    rng = np.random.default_rng(5)
    x, labels = rng.normal(size=(30, 3)), rng.integers(-1, 2, 30)
    whole = erasure.Moments.of(x, labels, 2)
    parts = erasure.Moments.of(x[:11], labels[:11], 2) + erasure.Moments.of(x[11:], labels[11:], 2)
    assert whole.count == parts.count == (labels >= 0).sum()
    np.testing.assert_allclose(
        erasure.fit_eraser(whole).removed, erasure.fit_eraser(parts).removed, atol=1e-12
    )


def test_methods_are_named_and_combined():
    both = methods.parse_method("ensemble+hsic")
    assert (both.adversaries, both.adversary_steps, both.dependence) == (3, 3, 1.0)
    with pytest.raises(ConfigError) as error:
        methods.parse_method("reversal+magic")
    assert str(error.value) == (
        "unknown method 'magic'. Accepted: reversal, confusion, ensemble, bottleneck, noise, "
        "hsic, decorrelate, leace, or several joined by +, such as reversal+bottleneck."
    )
