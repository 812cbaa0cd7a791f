"""What the overlaps of an image say about its detectors, in the units that people use."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from kred_core.config import MatchConfig
from kred_core.errors import InputError
from kred_core.match import Pairs
from kred_core.match.image import Matched, Skies, explain, fixed_backgrounds, match_image
from kred_core.products import tables

AREAS = np.array([0.0700, 0.0689, 0.0695, 0.0692])  # square arcsec: TPV pixels are not all the same
LEVELS = np.array([45.0, 47.5, 44.0, 80.0])  # counts28 per pixel
TRUTH = np.array([44.2, 47.9, 43.1, 79.0])
CHAIN = (np.array([0, 1, 0]), np.array([1, 2, 2]))  # the fourth detector is alone


def detectors(n: int = 4) -> Table:
    return Table(
        {
            "Field": ["LMC_c42"] * n,
            "Root": [f"c4d_{i}" for i in range(n)],
            "EXTNAME": ["N4"] * n,
            "NAXIS1": [2046] * n,
            "NAXIS2": [4094] * n,
            "SUB_BACK": [45.0] * n,
        }
    )


def skies(n: int = 4, has_map=True) -> Skies:
    return Skies(LEVELS[:n], AREAS[:n], np.broadcast_to(np.asarray(has_map), n), 2.0, np.zeros((n, 5)))


def pairs_of(first, second, difference, error=1e-3, **values) -> Pairs:
    first, second = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
    k = first.size
    difference = np.broadcast_to(np.asarray(difference, dtype=np.float64), k)
    same = dict.fromkeys(("mode", "mean", "median", "clipped_mean", "clipped_median"), difference)
    spread = dict.fromkeys(("std", "clipped_std"), np.full(k, 0.5)) | dict.fromkeys(("skew", "kurtosis"), np.zeros(k))
    plain = {
        "separation": np.full(k, 600.0),
        "n_cells": np.full(k, 5000),
        "error": np.full(k, error),
        "blocks": np.repeat(difference[:, None], 4, axis=1),
        "block_errors": np.full((k, 4), 2 * error),
        "block_places": np.zeros((k, 4, 2, 3)),
        "floor": 0.0,
        "small_first": np.empty(0, np.int64),
        "small_second": np.empty(0, np.int64),
    }
    return Pairs(first=first, second=second, difference=difference, **(same | spread | plain | values))


def surface(first, second) -> np.ndarray:
    """Differences of the binned maps that the true backgrounds lead to."""
    beta = (TRUTH - LEVELS) / AREAS
    return beta[second] - beta[first]


def match(pairs: Pairs, n: int = 4, has_map=True, fixed=None, zero_point="mean", **options) -> Matched:
    config = MatchConfig(zero_point=zero_point, **options)
    return match_image("N662", detectors(n), skies(n, has_map), pairs, fixed or {}, config)


@pytest.mark.parametrize("method", ["huber", "svd"])
def test_backgrounds_are_in_counts_per_pixel_up_to_the_common_level(method):
    found = match(pairs_of(*CHAIN, surface(*CHAIN)), method=method)
    b = np.asarray(found.backgrounds["b"])
    assert np.ptp((b - TRUTH)[:3] / AREAS[:3]) < 1e-6
    assert abs(np.mean((b - LEVELS)[:3] / AREAS[:3])) < 1e-6  # on the level of their own skies
    assert list(found.backgrounds.colnames) == [c.name for c in tables.BACKGROUNDS]
    assert found.numbers["After"] < 1e-6
    assert (found.numbers["b_err"] is None) == (method == "svd")


def test_the_zero_point_is_where_the_sky_is_darkest():
    """Emission of 0 to 99 in 100 detectors that all have the same background: their own skies hold all of it."""
    n = 100
    emission = np.arange(n, dtype=np.float64)[np.random.default_rng(1).permutation(n)]
    sky = Skies(45.0 + emission, np.full(n, 0.07), np.ones(n, bool), 2.0, np.zeros((n, 5)))
    i = np.arange(n - 1)
    pairs = pairs_of(i, i + 1, (emission[:-1] - emission[1:]) / 0.07)
    darkest, mean = (
        np.asarray(match_image("r", detectors(n), sky, pairs, {}, MatchConfig(zero_point=zero)).backgrounds["b"])
        for zero in ("darkest", "mean")
    )
    assert np.allclose(darkest, 45.0 + 9.9, atol=1e-3)
    assert np.allclose(mean, 45.0 + 49.5, atol=1e-3)


def test_differences_are_those_of_the_raw_levels_before_and_after():
    table = match(pairs_of(*CHAIN, surface(*CHAIN))).overlaps
    i, j = CHAIN
    assert np.allclose(table["Delta"], TRUTH[j] - TRUTH[i], atol=0.05)  # pixel areas differ by 1.6 %
    assert np.allclose(table["Before"], TRUTH[j] - TRUTH[i], atol=0.05)  # one background for all: nothing is taken away
    assert np.abs(table["After"]).max() < 1e-6
    assert np.allclose(table["Med"], table["Delta"])
    assert np.allclose(table["STD"], 0.5 * (AREAS[i] + AREAS[j]) / 2)
    assert list(table["Npix"]) == [round(5000 * 4 / a) for a in (AREAS[i] + AREAS[j]) / 2]
    assert list(table["File1"]) == ["c4d_0_N4", "c4d_1_N4", "c4d_0_N4"]


def _row(found: Matched) -> dict:
    return {name: np.nan if value is None else value for name, value in found.numbers.items()}


@pytest.mark.parametrize("method", ["huber", "svd"])
def test_fixed_backgrounds_are_kept_and_the_others_follow(method):
    found = match(pairs_of(*CHAIN, surface(*CHAIN)), fixed={("c4d_1", "N4"): 50.0}, method=method).backgrounds
    assert found["b"][1] == 50.0
    shift = (50.0 - TRUTH[1]) / AREAS[1]
    assert np.allclose((np.asarray(found["b"]) - TRUTH)[:3] / AREAS[:3], shift, atol=1e-5)
    assert list(found["Remark"][:3]) == ["", "fixed by the user", ""]


def test_a_table_of_backgrounds_can_be_given_back_as_fixed(tmp_path):
    found = match(pairs_of(*CHAIN, surface(*CHAIN))).backgrounds
    tables.write(found, tmp_path / "b.tab", "Backgrounds")
    fixed = fixed_backgrounds(str(tmp_path / "b.tab"))
    assert fixed == {(str(row["Root"]), "N4"): float(row["b"]) for row in found}


@pytest.mark.parametrize(
    ("text", "words"),
    [("Root EXTNAME b\nx N4 1\nx N4 2\n", "an earlier row has 1"), ("Root EXTNAME b\nx N4 nan\n", "row 1, column b")],
)
def test_a_wrong_table_of_fixed_backgrounds_is_explained(tmp_path, text, words):
    (tmp_path / "b.txt").write_text(text)
    with pytest.raises(InputError, match=words):
        fixed_backgrounds(str(tmp_path / "b.txt"))


def test_pixels_that_differ_in_area_do_not_tilt_the_field():
    """A row of detectors whose pixels are 1 % larger at one end; half of what their own skies hold is emission."""
    n = 20
    area, emission, background = 0.07, 100.0, 3.0  # square arcsec, counts28 per square arcsec, counts28 per pixel
    terms = np.zeros((n, 5))
    terms[:, 0] = 0.005
    levels = np.full(n, background + emission * area)
    i = np.arange(n - 1)
    places = np.zeros((n - 1, 4, 2, 3))
    places[:, :, 0, 0], places[:, :, 1, 0] = 0.9, -0.9  # the right end of one is the left end of the next
    beta = (background - levels[0]) / area
    seen = beta / (1 - 0.9 * 0.005) - beta / (1 + 0.9 * 0.005)  # what binned maps with their own areas differ by
    pairs = pairs_of(i, i + 1, seen, blocks=np.full((n - 1, 4), seen), block_places=places)
    sky = Skies(levels, np.full(n, area), np.ones(n, bool), 2.0, terms)
    # The zero is known, so that only the areas can tilt it.
    fixed = {("c4d_0", "N4"): background}
    b = match_image("r", detectors(n), sky, pairs, fixed, MatchConfig()).backgrounds["b"]
    tilt = abs(seen) * area * (n - 1)  # of the backgrounds, with one area for each detector
    assert tilt > 1.0
    assert np.ptp(b) < 0.1 * tilt


def test_slopes_and_steps_are_per_native_pixel():
    """One exposure tilted by 0.02 counts28 from side to side and stepped by 0.04: seen by its overlaps with three flat ones."""
    n = 4
    i, j = np.zeros(3, int), np.arange(1, 4)
    places = np.zeros((3, 4, 2, 3))
    places[:, :, 0, 0] = [-0.75, -0.25, 0.25, 0.75]
    places[:, :, 0, 2] = [-1, -1, 1, 1]
    area = 0.07
    profile = (0.01 * places[:, :, 0, 0] + 0.02 * places[:, :, 0, 2]) / area  # counts28 per square arcsec
    pairs = pairs_of(i, j, 0.0, 0.02, blocks=-profile, block_places=places)
    sky = Skies(np.full(n, 45.0), np.full(n, area), np.ones(n, bool), 2.0, np.zeros((n, 5)))
    config = MatchConfig(shape="detector-plane", amplifier_steps=True)
    found = match_image("r", detectors(n), sky, pairs, {}, config)
    assert found.numbers["Method"] == "huber, detector-plane, amplifier steps"
    tilted = found.backgrounds[0]
    assert tilted["grad_x"] * 2046 == pytest.approx(0.02, rel=0.2)
    assert tilted["step"] == pytest.approx(0.04, rel=0.2)
    assert tilted["grad_y"] == pytest.approx(0, abs=1e-6)


def test_the_line_for_a_person_says_how_much_better_it_got():
    row = _row(match(pairs_of(*CHAIN, surface(*CHAIN)))) | {"Seam_off": 3.84, "Jump_bef": 2.0, "Jump_aft": 1.0}
    line = explain(row)
    assert line.startswith("N662: 4 detectors, 3 overlaps; differences ")
    assert "seams of 3.8 removed" in line
    assert "GREW from 2 to 3" in explain(row | {"Jump_aft": 3.0})
