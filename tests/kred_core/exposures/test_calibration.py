"""Counts28: in them a source of 28 mag has 1 count, and an exposure has one background."""

import math

import numpy as np
import pytest

from kred_core.exposures.calibration import exposure_background, factor

MODE, MEDIAN = [110.0, 100.0, 130.0, 120.0], [115.0, 104.0, 139.0, 127.0]


def test_a_source_of_28_mag_has_one_count():
    for magzero in (25.0, 28.0, 29.915, 30.537):
        adu = 10 ** (-0.4 * (28 - magzero))  # of such a source, by the meaning of the zero point
        assert adu * factor(magzero) == pytest.approx(1, rel=1e-14)


def test_a_zero_point_of_28_changes_nothing_and_five_magnitudes_are_a_hundredfold():
    assert factor(28.0) == 1
    assert factor(33.0) == pytest.approx(0.01, rel=1e-14)
    assert factor(23.0) == pytest.approx(100, rel=1e-14)


@pytest.mark.parametrize(("method", "adu"), [("mode", 115.0), ("median", 121.0), ("min", 100.0), ("none", 0.0)])
def test_the_background_is_in_counts28_where_the_statistics_are_in_adu(method, adu):
    for scale in (1.0, 0.16, 3.0):
        found = exposure_background(method, MODE, MEDIAN, scale)
        assert found == pytest.approx(adu * scale, rel=1e-15)
        assert type(found) is float


def test_a_detector_on_a_nebula_does_not_move_the_background_but_is_never_the_smallest():
    with_nebula = [100.0, 101.0, 102.0, 900.0, 99.0]
    assert exposure_background("mode", with_nebula, with_nebula, 1.0) == 101
    assert exposure_background("min", with_nebula, with_nebula, 1.0) == 99


def test_one_detector_alone_is_its_own_background():
    for method in ("mode", "median", "min"):
        assert exposure_background(method, [7.0], [7.0], 2.0) == 14


def test_the_order_of_the_detectors_and_their_precision_change_nothing():
    random = np.random.default_rng(0)
    mode = random.normal(1e4, 3, 61).astype(np.float32)
    expected = exposure_background("mode", mode, mode, 0.3)
    assert expected == sorted(map(float, mode))[30] * 0.3
    for _ in range(5):
        random.shuffle(mode)
        assert exposure_background("mode", mode, mode, 0.3) == expected


def test_counts28_minus_the_background_of_a_flat_sky_is_zero():
    scale = factor(29.915)
    assert math.isclose(3171.0 * scale - exposure_background("mode", [3171.0] * 60, [3172.0] * 60, scale), 0.0, abs_tol=1e-9)
