"""The notebooks of docs/ do what they show: each is executed, its last cells assert that what came out is right."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PROJECT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((PROJECT / "docs").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_says(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    for name in ("KRED_ROOT", "KRED_FIELD", "KRED_TILE"):
        monkeypatch.delenv(name, raising=False)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(PROJECT)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert any("assert" in cell.source for cell in code)
    pictures = [o for cell in code for o in cell.outputs if "image/png" in o.get("data", {})]
    assert pictures


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["backgrounds", "look_at_a_field"]
