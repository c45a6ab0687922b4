"""No code errs by more than the bound that it states."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mskd.cache.quantisation import FeatureCode, MarginCode, code_from_json

CODES = [
    MarginCode(bits, spacing, temperature)
    for bits in (2, 4, 8, 16)
    for spacing in ("probability", "margin")
    for temperature in (1.0, 2.0)
]
margins = arrays(np.float32, st.integers(1, 200), elements=st.floats(-60, 60, width=32))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


@pytest.mark.parametrize("code", CODES, ids=str)
@given(values=margins, temperature=st.floats(0.5, 8))
@settings(max_examples=60, deadline=None)
def test_margin_error_is_within_the_stated_bound(code: MarginCode, values: np.ndarray, temperature: float) -> None:
    read = code.decode(code.encode(values))
    error = np.abs(sigmoid(values / temperature) - sigmoid(read / temperature))
    assert error.max() <= code.probability_bound(temperature)


@pytest.mark.parametrize("code", CODES, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 1.5, 2.0, 4.0])
def test_margin_bound_is_reached(code: MarginCode, temperature: float) -> None:
    """The bound is the largest error, not merely above it: dense margins come within a thousandth of it."""
    values = np.linspace(-60, 60, 2_000_001).astype(np.float32)
    read = code.decode(code.encode(values))
    error = np.abs(sigmoid(values / temperature) - sigmoid(read / temperature)).max()
    assert error >= 0.98 * code.probability_bound(temperature) - 2e-5


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_at_its_own_temperature_the_bound_is_half_a_step(bits: int) -> None:
    for temperature in (1.0, 2.0):
        code = MarginCode(bits, "probability", temperature)
        assert code.probability_bound(temperature) == pytest.approx(0.5 / (2**bits - 1), rel=1e-3)


def test_saturated_background_reads_as_almost_nothing() -> None:
    code = MarginCode(4)
    assert code.encode(np.float32([-30.0]))[0] == 0
    assert sigmoid(code.decode(np.array([0])))[0] == pytest.approx(2.0**-12, rel=1e-3)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_ends_keep_the_sum_of_probabilities(bits: int) -> None:
    """Body at 0.2 and at 0.8 of half a step; what lies outside of it does not count."""
    step = 1 / (2**bits - 1)
    u = np.array([0.1, 0.4, 0.1, 0.4]) * step
    margins = np.log(np.concatenate((u, 1 - u)) / np.concatenate((1 - u, u))).reshape(1, 8, 1, 1)
    outside = np.full((1, 2, 1, 1), -30.0)
    body = np.arange(10).reshape(10, 1, 1) < 8
    everything = np.concatenate((margins, outside), 1)
    code = MarginCode(bits).fitted(everything, body)
    read = sigmoid(code.decode(code.encode(margins)))
    assert read.mean() == pytest.approx(sigmoid(margins).mean(), rel=1e-3)
    assert read.min() == pytest.approx(0.25 * step, rel=1e-3)
    assert np.abs(read - sigmoid(margins)).max() <= code.probability_bound(1.0)
    again = code_from_json(code.to_json())
    assert again == code


def test_a_fitted_code_keeps_its_bound_and_its_order() -> None:
    margins = np.linspace(-9, 9, 4001).reshape(1, -1, 1, 1)
    for code in CODES:
        fitted = code.fitted(margins, np.ones(margins.shape[1:], bool))
        assert (np.diff(fitted.margins) > 0).all()
        for temperature in (0.7, 1.0, 2.0):
            error = np.abs(
                sigmoid(margins / temperature) - sigmoid(fitted.decode(fitted.encode(margins)) / temperature)
            )
            assert error.max() <= fitted.probability_bound(temperature)


def test_codes_read_back_to_themselves() -> None:
    for code in CODES:
        every = np.arange(code.levels).astype(code.dtype)
        np.testing.assert_array_equal(code.encode(code.decode(every)), every)


def test_codes_keep_the_order() -> None:
    for code in CODES:
        assert (np.diff(code.margins) > 0).all()


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        MarginCode(8).encode(np.float32([np.nan]))
    with pytest.raises(ValueError, match="not finite"):
        FeatureCode(8, (1.0,), (1.0,)).encode(np.full((1, 1, 1, 1), np.inf, np.float32))


@given(
    values=arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
        elements=st.floats(-1e4, 1e4, width=32),
    ),
    bits=st.sampled_from([4, 8]),
)
@settings(max_examples=150, deadline=None)
def test_feature_error_is_within_the_stated_bound(values: np.ndarray, bits: int) -> None:
    code = FeatureCode.of(values, bits)
    read = code.decode(code.encode(values))
    for channel, bound in enumerate(code.bound()):
        assert np.abs(values[channel] - read[channel]).max() <= bound + 1e-30


def test_feature_scale_by_hand() -> None:
    values = np.zeros((2, 1, 1, 2), np.float32)
    values[0, 0, 0] = [-14.0, 3.2]
    code = FeatureCode.of(values, 4)  # largest code 7: a step of 2
    assert code.scale == (2.0, 0.0)
    assert code.bound() == pytest.approx([1.0, 0.0], abs=1e-3)
    np.testing.assert_array_equal(code.encode(values)[0, 0, 0], [-7, 2])
    np.testing.assert_array_equal(code.decode(code.encode(values))[0, 0, 0], [-14.0, 4.0])


def test_far_values_are_cut_and_the_bound_says_so() -> None:
    values = np.full((1, 10, 10, 10), 1.0, np.float32)
    values[0, 0, 0, 0] = 100.0  # rms 3.32: 4 · rms = 13.3 is the largest value that is kept
    code = FeatureCode.of(values, 4)
    read = code.decode(code.encode(values))
    assert read.max() == pytest.approx(4 * np.sqrt((999 + 1e4) / 1000), rel=1e-4)
    assert np.abs(read - values).max() == pytest.approx(code.bound()[0], rel=1e-3)
    assert np.abs(read - values)[0, 1:].max() <= code.scale[0] / 2 + 1e-6


def test_codes_survive_json() -> None:
    for code in [*CODES, FeatureCode(8, (0.1, 0.2), (3.0, 4.0))]:
        assert code_from_json(code.to_json()) == code
    assert code_from_json(None) is None
    with pytest.raises(ValueError, match="unknown code"):
        code_from_json({"kind": "wavelet"})
