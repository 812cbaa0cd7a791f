"""Backgrounds: what holds for any graph of overlaps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from properties import examples

from kred_core.match.solve import BackgroundModel, solve


@dataclass(frozen=True)
class Pairs:
    """Differences of detectors, as they come: some twice, some of equal size, some far off."""

    n: int
    first: np.ndarray
    second: np.ndarray
    difference: np.ndarray
    error: np.ndarray
    own: np.ndarray

    def solved(self, **options):
        arguments = {"own": self.own, "own_error": 5.0, **options}
        return solve(self.n, self.first, self.second, self.difference, self.error, **arguments)


VALUES = (
    st.integers(-8, 8).map(float)
    | st.floats(-50, 50, allow_subnormal=False).map(lambda x: round(x, 6))
    | st.sampled_from([0.0, 1e3, -1e3])
)


@st.composite
def graphs(draw, largest=9):
    n = draw(st.integers(2, largest))
    k = draw(st.integers(1, 24))
    ends = hnp.arrays(np.int64, k, elements=st.integers(0, n - 1))
    error = hnp.arrays(
        float, k, elements=st.sampled_from([0.5, 1.0, 2.0]) | st.floats(0.1, 9, allow_subnormal=False).map(lambda x: round(x, 3))
    )
    first, second = draw(ends), draw(ends)
    return Pairs(
        n, first, second, draw(hnp.arrays(float, k, elements=VALUES)), draw(error), draw(hnp.arrays(float, n, elements=VALUES))
    )


FIELDS = ("background", "error", "component", "n_pairs", "n_rejected")


def values_of(solution, name):
    """One of its arrays; of the backgrounds all terms, (n, 4)."""
    return solution.background.coefficients() if name == "background" else getattr(solution, name)


def each_once(graph):
    """The same without pairs that are there again, in either sense: parts of an overlap belong to one."""
    ends = np.sort([graph.first, graph.second], axis=0)
    kept = np.sort(np.unique(ends, axis=1, return_index=True)[1])
    return replace(graph, **{name: getattr(graph, name)[kept] for name in ("first", "second", "difference", "error")})


def parts_of(graph, seed):
    """Exposures, and differences in the parts of the overlaps, at places drawn by number; some are not measured."""
    rng = np.random.default_rng(seed)
    k = graph.first.size
    blocks = graph.difference[:, None] + rng.normal(0, 1, (k, 4)).round(3)
    blocks[rng.random((k, 4)) < 0.2] = np.nan
    return rng.integers(0, 3, graph.n), blocks, np.tile(graph.error[:, None], 4), rng.uniform(-1, 1, (k, 4, 2, 3)).round(3)


@examples(35)
@given(
    graph=graphs(),
    seed=st.integers(0, 2**32 - 1),
    robust=st.booleans(),
    plane=st.sampled_from(["none", "exposure-plane", "detector-plane"]),
)
def test_any_order_and_sense_of_the_pairs_gives_the_same_bits(graph, seed, robust, plane):
    graph = graph if plane == "none" else each_once(graph)
    rng = np.random.default_rng(seed)
    to, order, turned = rng.permutation(graph.n), rng.permutation(graph.first.size), rng.random(graph.first.size) < 0.5
    sign = np.where(turned, -1.0, 1.0)
    names = rng.permutation(graph.n)
    first, second = to[graph.first[order]], to[graph.second[order]]
    old = np.argsort(to)
    shuffled = Pairs(
        graph.n,
        np.where(turned, second, first),
        np.where(turned, first, second),
        sign * graph.difference[order],
        graph.error[order],
        graph.own[old],
    )
    shapes = None, None
    if plane != "none":
        exposure, blocks, errors, at = parts_of(graph, seed)
        there = np.where(turned[:, None, None, None], at[order][:, :, ::-1], at[order])
        shapes = (
            BackgroundModel(exposure, blocks, errors, at, plane),
            BackgroundModel(exposure[old], sign[:, None] * blocks[order], errors[order], there, plane),
        )
    a = graph.solved(robust=robust, key=names, shape=shapes[0])
    b = shuffled.solved(robust=robust, key=names[old], shape=shapes[1])
    for name in FIELDS:
        np.testing.assert_array_equal(values_of(b, name)[to], values_of(a, name), err_msg=name)
    np.testing.assert_array_equal(b.weight, a.weight[order])
    np.testing.assert_array_equal(b.rejected, a.rejected[order])
    assert a.scale == b.scale


@examples(35)
@given(graph=graphs(), power=st.integers(-20, 20), robust=st.booleans())
def test_another_unit_gives_the_same_answer_in_that_unit(graph, power, robust):
    """Powers of two change no digit: to the bit."""
    factor = 2.0**power
    scaled = Pairs(graph.n, graph.first, graph.second, factor * graph.difference, factor * graph.error, factor * graph.own)
    a, b = graph.solved(robust=robust), scaled.solved(robust=robust, own_error=factor * 5.0)
    for name in ("background", "error"):
        np.testing.assert_array_equal(values_of(b, name), factor * values_of(a, name), err_msg=name)
    np.testing.assert_array_equal(b.weight, a.weight)
    np.testing.assert_array_equal(b.rejected, a.rejected)
    assert a.scale == b.scale


@examples(35)
@given(graph=graphs(), own=VALUES, robust=st.booleans(), at=st.integers(0, 9))
def test_a_detector_without_overlaps_changes_nothing(graph, own, robust, at):
    """Also where it stands among the others."""
    at = min(at, graph.n)
    kept = np.delete(np.arange(graph.n + 1), at)
    larger = Pairs(graph.n + 1, kept[graph.first], kept[graph.second], graph.difference, graph.error, np.insert(graph.own, at, own))
    a, b = graph.solved(robust=robust), larger.solved(robust=robust)
    for name in ("background", "error", "n_pairs", "n_rejected"):
        np.testing.assert_array_equal(values_of(b, name)[kept], values_of(a, name), err_msg=name)
    assert (b.background.b[at], b.n_pairs[at], a.scale) == (own, 0, b.scale)
    assert np.isnan(b.error[at])
    np.testing.assert_array_equal(b.weight, a.weight)
