"""Draw a figure and look at what is behind its file."""

import pytest

from kred_core.figures import drawing


@pytest.fixture
def draw(monkeypatch, tmp_path):
    """Draw with a function of `kred_core.figures` into f.png; returns the figure behind the file."""
    kept, save = [], drawing.save

    def keep_and_save(figure, path):
        save(figure, path)
        kept.append(figure)

    def draw(function, *arguments, **options):
        function(*arguments, path=tmp_path / "f.png", **options)
        return kept[-1]

    monkeypatch.setattr(drawing, "save", keep_and_save)
    return draw
