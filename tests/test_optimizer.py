"""BERTAdam against float64 NumPy, the schedule, and updates that must not happen."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mxnet import gluon

import optimizer

SHAPES = {"dense.weight": (7, 5), "dense.bias": (7,), "norm.gamma": (5,), "norm.beta": (5,)}


def make_parameters(values) -> dict[str, gluon.Parameter]:
    parameters = {}
    for name, value in values.items():
        parameter = gluon.Parameter(name, shape=value.shape)
        parameter.initialize(ctx=mx.cpu())
        parameter.set_data(mx.nd.array(value))
        parameters[name] = parameter
    return parameters


def random_values(seed, scale=1.0):
    random = np.random.default_rng(seed)
    return {name: random.normal(0, scale, shape) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("name", ["bertadam", "adamw"])
def test_twenty_updates_equal_the_float64_reference(name):
    total, lr, decay, epsilon, examples = 20, 1e-2, 0.1, 1e-6, 4
    weights = random_values(0)
    parameters = make_parameters(weights)
    updater = optimizer.Updater(parameters, optimizer.create(name, decay, epsilon))
    weights = {k: v.astype(np.float32).astype(np.float64) for k, v in weights.items()}
    m = {k: np.zeros(s) for k, s in SHAPES.items()}
    v = {k: np.zeros(s) for k, s in SHAPES.items()}
    clipped = 0
    for t in range(1, total + 1):
        # Some updates are clipped (norm above 1), some are not.
        grads = random_values(t, scale=[0.05, 3.0][t % 2])
        for key, parameter in parameters.items():
            parameter.grad()[:] = mx.nd.array(grads[key])
        rate = optimizer.learning_rate(t, total, 0.25, lr)
        norm = updater.update(rate, examples)

        mean = {k: g.astype(np.float32).astype(np.float64) / examples for k, g in grads.items()}
        expected_norm = np.sqrt(sum((g**2).sum() for g in mean.values()))
        np.testing.assert_allclose(norm.asscalar(), expected_norm, rtol=1e-5)
        clipped += expected_norm > 1
        for k, w in weights.items():
            g = mean[k] / max(1.0, expected_norm)
            m[k] = 0.9 * m[k] + 0.1 * g
            v[k] = 0.999 * v[k] + 0.001 * g**2
            m_hat, v_hat = m[k], v[k]
            if name == "adamw":
                m_hat, v_hat = m[k] / (1 - 0.9**t), v[k] / (1 - 0.999**t)
            wd = decay if k.endswith("weight") else 0.0
            weights[k] = w - rate * (m_hat / (np.sqrt(v_hat) + epsilon) + wd * w)
            # 1 - 0.999 in float32 is 1.3e-5 off, and a step is up to three times the rate (1e-2).
            np.testing.assert_allclose(
                parameters[k].data().asnumpy(), weights[k], rtol=1e-6, atol=1e-5
            )
    assert 0 < clipped < total


def test_the_schedule_rises_over_the_warm_up_and_falls_to_zero_after_the_last_update():
    rates = [optimizer.learning_rate(t, 10, 0.4, 1.0) for t in range(1, 12)]
    np.testing.assert_allclose(
        rates, [1 / 4, 2 / 4, 3 / 4, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7, 0]
    )
    # Without warm-up, as transformers' linear schedule: from the whole rate on.
    rates = [optimizer.learning_rate(t, 4, 0.0, 1.0) for t in range(1, 5)]
    assert rates == [1, 3 / 4, 2 / 4, 1 / 4]


@settings(max_examples=50)
@given(
    total=st.integers(1, 1000),
    warmup_ratio=st.floats(0, 1, exclude_max=True),
    lr=st.floats(1e-6, 1),
)
def test_every_update_has_a_learning_rate_above_zero_and_one_has_the_peak(total, warmup_ratio, lr):
    rates = [optimizer.learning_rate(t, total, warmup_ratio, lr) for t in range(1, total + 1)]
    assert min(rates) > 0 and max(rates) == pytest.approx(lr)


@pytest.mark.parametrize("name", ["bertadam", "adamw", "adam", "sgd"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(name, bad):
    parameters = make_parameters(random_values(0))
    updater = optimizer.Updater(parameters, optimizer.create(name, 0.01, 1e-6))
    for key, parameter in parameters.items():
        parameter.grad()[:] = mx.nd.array(random_values(1)[key])
    updater.update(1e-2, 1)
    before = {name: p.data().asnumpy() for name, p in parameters.items()}
    parameters["dense.weight"].grad()[3, 2] = bad
    assert not np.isfinite(updater.update(1e-2, 1).asscalar())
    for key, parameter in parameters.items():
        np.testing.assert_array_equal(parameter.data().asnumpy(), before[key])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["bertadam", "adamw"])
def test_an_update_that_changed_nothing_does_not_count(name, fused, request):
    if fused:
        request.getfixturevalue("fused_operators")

    def steps(skipped):
        parameters = make_parameters(random_values(0))
        updater = optimizer.Updater(parameters, optimizer.create(name, 0.01, 1e-6), fused=fused)
        for update in range(4):
            for key, parameter in parameters.items():
                parameter.grad()[:] = mx.nd.array(random_values(update)[key])
            if skipped and update == 2:
                parameters["dense.weight"].grad()[3, 2] = np.nan
                updater.update(1e-2, 1)
                parameters["dense.weight"].grad()[:] = mx.nd.array(
                    random_values(update)["dense.weight"]
                )
            updater.update(1e-2, 1)
        state = updater.state_arrays()
        return {**state, **{key: p.data().asnumpy() for key, p in parameters.items()}}

    undisturbed, disturbed = steps(False), steps(True)
    if name == "bertadam":  # it does not use the count
        del undisturbed["count"], disturbed["count"]
    for key, value in undisturbed.items():
        np.testing.assert_array_equal(disturbed[key], value, err_msg=key)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("max_norm, moved", [(1.0, 1.0), (0.25, 0.25), (10.0, 2.0), (0.0, 2.0)])
def test_gradients_are_scaled_down_to_the_largest_norm(fused, max_norm, moved, request):
    if fused:
        request.getfixturevalue("fused_operators")
    parameters = make_parameters({"dense.weight": np.zeros((2, 2))})
    rule = optimizer.create("bertadam", 0.0, 1e-8)
    updater = optimizer.Updater(parameters, rule, max_norm=max_norm, fused=fused)
    parameters["dense.weight"].grad()[:] = 1  # its norm is 2
    assert updater.update(1e-2, 1).asscalar() == pytest.approx(2)
    m = updater.states["dense.weight"][0].asnumpy()
    np.testing.assert_allclose(np.linalg.norm(m), 0.1 * moved, rtol=1e-5)


@pytest.mark.parametrize(
    "name, fused",
    [("bertadam", True), *((n, False) for n in ("bertadam", "adamw", "adam", "sgd"))],
)
def test_a_parameters_learning_rate_is_multiplied_by_its_own_factor(name, fused, request):
    if fused:
        request.getfixturevalue("fused_operators")
    parameters = make_parameters({"near.weight": np.ones((3, 2)), "far.weight": np.ones((3, 2))})
    parameters["far.weight"].lr_mult = 0.25
    updater = optimizer.Updater(parameters, optimizer.create(name, 0.01, 1e-6), fused=fused)
    for update in range(3):
        for parameter in parameters.values():
            parameter.grad()[:] = update + 1
        updater.update(1e-3, 1)
    near, far = (1 - parameter.data().asnumpy() for parameter in parameters.values())
    assert near.min() > 1e-4
    np.testing.assert_allclose(far, near / 4, rtol=2e-3)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_mxnets_own_optimizers_step_down_the_gradient(name):
    parameters = make_parameters({"dense.weight": np.ones((2, 2))})
    updater = optimizer.Updater(parameters, optimizer.create(name, 0.0, 1e-8))
    parameters["dense.weight"].grad()[:] = 0.1
    updater.update(1e-2, 1)
    step = 1e-2 if name == "adam" else 1e-3
    np.testing.assert_allclose(parameters["dense.weight"].data().asnumpy(), 1 - step, rtol=1e-5)
