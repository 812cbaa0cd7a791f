"""What kred as a service shows of a data root: what its pages lead to, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from kred_core.service import served_address, served_file

SHOWN = ["DECam_SWARP/index.html", "DECam_SWARP/LMC_c42/eval/a b.png", "Summary/LMC_c42_det.tab", "Log/LMC_c42.log"]
HIDDEN = [
    "kred.toml",
    "DECam_MEF/LMC_c42/mef/c4d_ooi_r_v1.fits.fz",
    ".kred/_service/server.log",
    "DECam_SWARP/.index.html.part.html",
    "DECam_SWARP/LMC_c42/notes.txt",
]


@pytest.fixture
def root(tmp_path) -> Path:
    """A data root with files of all kinds, beside one that is nobody's business."""
    root = tmp_path / "root"
    for name in [*SHOWN, *HIDDEN, "../secret.html"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


@pytest.mark.parametrize("place", SHOWN)
def test_products_are_shown_under_their_own_path(root, place):
    file, _ = served_file(root, place)
    assert file.read_text() == place
    assert served_address(root, root / place) == "/pages/" + place.replace(" ", "%20")


@pytest.mark.parametrize(
    "place",
    [*HIDDEN, "", "DECam_SWARP", "DECam_SWARP/none.html", "DECam_SWARP/../../secret.html", "/etc/passwd", "DECam_SWARP\0.html"],
)
def test_nothing_else_is(root, place):
    assert served_file(root, place) is None
    assert served_address(root, Path("/elsewhere/index.html")) is None


@pytest.mark.parametrize("target", ["../../secret.html", "../.kred/_service/server.log", f"../{HIDDEN[1]}"])
def test_links_do_not_lead_to_it_but_from_product_to_product(root, target):
    link = root / "DECam_SWARP" / f"link{Path(target).suffix}"
    link.symlink_to(target)
    assert link.exists()
    assert served_file(root, f"DECam_SWARP/{link.name}") is None
    (root / "DECam_SWARP" / "latest.html").symlink_to("index.html")
    assert served_file(root, "DECam_SWARP/latest.html") == (root / "DECam_SWARP" / "index.html", "text/html; charset=utf-8")
