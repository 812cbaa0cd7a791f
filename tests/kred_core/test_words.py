"""Numbers agree with their nouns."""

import pytest

from kred_core.words import counted


@pytest.mark.parametrize(("n", "words"), [(0, "0 pairs"), (1, "1 pair"), (2, "2 pairs"), (1024, "1,024 pairs")])
def test_numbers_agree_with_their_nouns(n, words):
    assert counted(n, "pair") == words
