"""A detector that does not see what its siblings see is refused with the numbers; one that may be right is not."""

from dataclasses import dataclass

import pytest

from kred_core.exposures import siblings


@dataclass
class Seen:
    extname: str
    histogram_mode: float
    noise: float


def judged(*odd, n=5, level=3000.0, noise=30.0):
    """What is said of detectors (level, noise), D1 and on, beside n - len(odd) ordinary ones."""
    ordinary = [Seen(f"N{i}", level * (1 + 0.01 * i), noise * (1 + 0.005 * i)) for i in range(n - len(odd))]
    return siblings.judge([*ordinary, *(Seen(f"D{i}", *numbers) for i, numbers in enumerate(odd, 1))])


@pytest.mark.parametrize(
    ("level", "noise"),
    [
        (0.01, 2.0),  # read noise around 0
        (30.0, 3.0),  # a hundredth of the light
        (-500.0, 30.0),
        (3000.0, 3.0),  # the right level, a tenth of the noise
        (3000.0, 300.0),
        (60000.0, 5.0),  # stuck, and quiet
        (400000.0, 600.0),
    ],
)
@pytest.mark.parametrize("n", [3, 4, 60])
def test_a_detector_far_from_the_others_is_refused(level, noise, n):
    refused, remarks = judged((level, noise), n=n)
    assert list(refused) == ["D1"]
    assert f"{level:.5g}" in refused["D1"]
    assert f"of the {n} detectors of this exposure" in refused["D1"]
    assert remarks == []


@pytest.mark.parametrize(
    ("level", "noise"),
    [
        (9000.0, 52.0),  # a nebula of twice the sky
        (90000.0, 164.0),  # 30 Doradus in a narrow band
        (1000.0, 17.0),  # strongly vignetted
        (400.0, 11.0),
        (3000.0, 60.0),  # crowded by stars
    ],
)
def test_nebulae_vignetting_and_crowds_are_no_faults(level, noise):
    assert judged((level, noise)) == ({}, [])


def test_a_nebula_over_more_than_half_of_an_exposure_leaves_the_dark_rest():
    assert judged((3000.0, 30.0), (3100.0, 31.0), level=20000.0, noise=78.0) == ({}, [])


def test_two_dead_detectors_of_five_are_both_refused():
    assert sorted(judged((0.0, 2.0), (0.3, 2.1))[0]) == ["D1", "D2"]


def test_where_the_sky_is_near_zero_levels_have_no_ratio():
    for level in (-20.0, 0.0, 5.0, 40.0, 80.0):
        assert judged((level, 31.0), level=1.0) == ({}, [])
    assert list(judged((3.0, 0.4), level=6.0, noise=3.0)[0]) == ["D1"]  # its noise has


def test_in_dark_time_a_narrow_band_still_shows_who_is_dead():
    refused, _ = judged((0.05, 1.5), level=30.0, noise=3.2)
    assert refused == {"D1": "its sky level is 0.05 ADU, the median of the 5 detectors of this exposure 30.3 ADU"}


def test_of_two_detectors_nobody_can_tell_which_is_wrong():
    refused, remarks = siblings.judge([Seen("N4", 3000.0, 30.0), Seen("S10", 0.01, 2.0)])
    assert refused == {}
    (remark,) = remarks
    assert all(word in remark for word in ("N4", "S10", "3000", "one of the two is wrong"))
    assert siblings.judge([Seen("N4", 3000.0, 30.0), Seen("S10", 9000.0, 52.0)]) == ({}, [])


def test_a_detector_without_noise_sees_nothing_however_many_there_are():
    for others in ([], [Seen("N4", 3000.0, 30.0)], [Seen("N4", 3000.0, 30.0), Seen("N5", 3000.0, 30.0)]):
        refused, remarks = siblings.judge([*others, Seen("S10", 0.0, 0.0)])
        assert refused == {"S10": "its pixels do not differ from their neighbours: it sees no sky (its level is 0 ADU)"}
        assert remarks == []
    assert "its noise is not known" in siblings.judge([Seen("S10", 5.0, float("nan"))])[0]["S10"]


def test_one_detector_alone_or_none_is_compared_with_nobody():
    assert siblings.judge([]) == siblings.judge([Seen("N4", 0.01, 2.0)]) == ({}, [])
