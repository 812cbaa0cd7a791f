"""Numbers agree with their nouns, times and sizes have units that people use, and lists stay short."""

import pytest

from kred_core.words import counted, human_size, human_time, some


@pytest.mark.parametrize(("n", "words"), [(0, "0 pairs"), (1, "1 pair"), (2, "2 pairs"), (1024, "1,024 pairs")])
def test_numbers_agree_with_their_nouns(n, words):
    assert counted(n, "pair") == words


@pytest.mark.parametrize(
    ("size", "words"),
    [(999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"), (2.5e9, "2.5 GB"), (7e14, "700.0 TB")],
)
def test_sizes(size, words):
    assert human_size(size) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (119, "119 s"), (120, "2.0 min"), (7199, "120.0 min"), (9000, "2.5 h")]
)
def test_times(seconds, words):
    assert human_time(seconds) == words


def test_of_many_names_a_few_are_said():
    assert some(["b", "a"]) == "a, b"
    assert some("gfedcba") == "a, b, c, d, e and 2 more"
