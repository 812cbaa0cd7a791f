"""The backgrounds of one image: tables of overlaps and of backgrounds, numbers, and remarks.

Differences and their solution are plain arrays of surface brightness. Here they meet the detectors: units become counts28
per native pixel, a user's fixed backgrounds enter, and every detector gets its row, whatever happened to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from astropy import units as u
from astropy.table import Table

from ..background import Background
from ..config import MatchConfig
from ..products import tables
from ..products.usertable import UserTable
from ..statistics import robust_rms
from ..words import counted
from . import N_BLOCKS, Pairs
from .solve import BackgroundModel, Solution, component_means, components, solve, solve_svd

__all__ = ["Matched", "Skies", "explain", "fixed_backgrounds", "match_image"]

COUNTS28 = u.Unit("counts28/pix", parse_strict="silent")
LARGEST_BACKGROUND = 1e6  # counts28 per pixel; anything larger is a mistake
OWN_SKY_ERROR = 73.0  # counts28 per square arcsec, 5 in a pixel of DECam: how far own skies may be from backgrounds, at least
DARKEST = 0.1  # part of the detectors whose own skies are taken to be free of emission
LARGE_SCALE = 3.0  # of the residuals in units of their errors; beyond, something is wrong that the model does not know
UNSTABLE = "S7"  # of DECam: amplifier A of CCDNUM 31 (Valdes 2021, PL206; DES and the Legacy Surveys leave it out)
MOST = 0.5  # of its overlaps: a detector that disagrees with more of them is called contradicting


@dataclass(frozen=True, eq=False)
class Skies:
    """What the binned maps of the detectors of an image were made with.

    Attributes
    ----------
    level : `~numpy.ndarray`
        Own sky level of each detector, subtracted from its binned map, counts28 per native pixel.
    area : `~numpy.ndarray`
        Solid angle of the pixel at its centre, square arcsec.
    has_map : `~numpy.ndarray`
        bool; False for a detector of which there is no binned map.
    cell : float
        Side of a cell of the binned maps in arcsec.
    area_terms : `~numpy.ndarray`
        (n, 5): how the area changes over the detector; see `kred_core.binned.BinnedMap`.
    """

    level: np.ndarray
    area: np.ndarray
    has_map: np.ndarray
    cell: float
    area_terms: np.ndarray


@dataclass(frozen=True, eq=False)
class Matched:
    """Tables of the backgrounds and overlaps of one image, and its row of the table of the matching, but for the quick look."""

    backgrounds: Table
    overlaps: Table
    numbers: dict


def fixed_backgrounds(path: str) -> dict[tuple[str, str], float]:
    """Backgrounds that a user gives: b in counts28 per pixel by (Root, EXTNAME).

    Raises InputError where the table cannot be read, or names a detector twice with different values.
    """
    if not path:
        return {}
    rows = UserTable("background", path, ("Root", "EXTNAME", "b"))
    values = rows.numbers("b", COUNTS28, -LARGEST_BACKGROUND, LARGEST_BACKGROUND)
    found: dict[tuple[str, str], float] = {}
    for i, (root, extname, value) in enumerate(zip(rows.names("Root"), rows.names("EXTNAME"), values, strict=True)):
        earlier = found.setdefault((root, extname), value)
        if earlier != value:
            raise rows.fault(i, "b", value, f"one background for {root}_{extname}; an earlier row has {earlier:g}")
    return found


def match_image(
    image: str,
    detectors: Table,
    skies: Skies,
    pairs: Pairs,
    fixed: Mapping[tuple[str, str], float],
    config: MatchConfig,
    own_error: float = OWN_SKY_ERROR,
    exposure_slope: float | None = None,
) -> Matched:
    """Find the background of every detector of an image.

    Parameters
    ----------
    image : str
    detectors : `~astropy.table.Table`
        n rows: Field, Root, EXTNAME, NAXIS1, NAXIS2, SUB_BACK [counts28 per pixel].
    skies : Skies
    pairs : `~kred_core.match.Pairs`
        Overlaps; indices are rows of ``detectors``.
    fixed : mapping
        See `fixed_backgrounds`.
    config : `~kred_core.config.MatchConfig`
    own_error : float
        How far own skies may be from backgrounds, at least, in counts28 per square arcsec; inf: they set zero points only.
    exposure_slope : float, optional
        Expected size of the slopes of exposures; see `kred_core.match.solve.BackgroundModel`.

    Returns
    -------
    Matched
        With a row for each detector: one without overlaps keeps its own sky level.

    Notes
    -----
    A binned map holds S + (B - L)/A: celestial surface brightness, background B and own level L per native pixel, pixel area A.
    So the solution beta in surface brightness means the background b = L + beta A. Within a detector A differs by some tenths of
    a per cent, and L contains emission: a first solution says how much, and the differences become those that detectors with
    their central pixel area everywhere would show, before they are solved again.
    """
    given = np.array([fixed.get((str(r["Root"]), str(r["EXTNAME"])), np.nan) for r in detectors])
    graph = (pairs.first, pairs.second)

    def solved(difference: np.ndarray, blocks: np.ndarray) -> Solution:
        """The solution in surface brightness above the own levels of the maps, which are 0 in it."""
        known = (given - skies.level) / skies.area
        if config.method == "svd":
            return _of_older_scripts(len(detectors), *graph, difference, pairs.n_cells, known)
        shape = None
        if config.shape != "constant" or config.amplifier_steps:
            exposures = np.unique([f"{row['Field']} {row['Root']}" for row in detectors], return_inverse=True)[1]
            parts = blocks, pairs.block_errors, pairs.block_places
            shape = BackgroundModel(exposures, *parts, config.shape, config.amplifier_steps, exposure_slope)
        return solve(len(detectors), *graph, difference, pairs.error, own_error=own_error, fixed=known, shape=shape)

    first_guess = _on_darkest_skies(solved(pairs.difference, pairs.blocks), np.isfinite(given))
    solution = solved(*_with_central_areas(pairs, skies, first_guess.background.b))
    if config.zero_point == "darkest":
        solution = _on_darkest_skies(solution, np.isfinite(given))
    outcome = _Outcome(image, detectors, skies, pairs, given, solution)
    return Matched(outcome.background_table(), outcome.overlap_table(), outcome.numbers(config))


def _with_central_areas(pairs: Pairs, skies: Skies, background: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences, also of parts, beta_j - beta_i where beta_j/r_j - beta_i/r_i are measured, r being area over central area."""
    u, v = pairs.block_places[..., 0], pairs.block_places[..., 1]  # (K, 4, 2)
    terms = np.stack([u, v, u**2, u * v, v**2], axis=-1)
    detectors = np.stack([pairs.first, pairs.second], axis=-1)
    excess = 1.0 / (1.0 + np.einsum("kbdt,kdt->kbd", terms, skies.area_terms[detectors])) - 1.0
    shift = (excess * background[detectors][:, None, :]) @ np.array([-1.0, 1.0])  # (K, 4)
    measured = np.isfinite(shift)
    mean = np.where(measured, shift, 0.0).sum(axis=1) / np.maximum(measured.sum(axis=1), 1)
    return pairs.difference - mean, pairs.blocks - shift


def _on_darkest_skies(solution: Solution, fixed: np.ndarray) -> Solution:
    """The same up to one constant for each component: what own skies have above the background is 0 where the sky is darkest."""
    component = solution.component
    shift = np.zeros(component.max(initial=0) + 1)
    for number in np.unique(component[~np.isin(component, component[fixed])]):
        shift[number] = np.quantile(-solution.background.b[component == number], DARKEST)
    shifted = replace(solution.background, b=solution.background.b + shift[component])
    return replace(solution, background=shifted)


def _of_older_scripts(
    n: int, first: np.ndarray, second: np.ndarray, difference: np.ndarray, n_cells: np.ndarray, fixed: np.ndarray
) -> Solution:
    """Their solution; each component on its own skies, or on what is fixed in it."""
    component = components(n, first, second)
    levels = solve_svd(n, first, second, difference, n_cells, np.zeros(n))
    known = np.isfinite(fixed)
    counts = known | ~np.isin(component, component[known])  # these say where the zero of their component is
    levels = levels - component_means(np.where(counts, levels - np.where(known, fixed, 0.0), np.nan), component)
    levels = np.where(known, fixed, levels)
    n_pairs = np.bincount(np.concatenate([first, second]), minlength=n)
    residual = difference - (levels[second] - levels[first])
    return Solution(
        background=Background(levels, *np.zeros((3, n))),
        error=np.full(n, np.nan),
        component=component,
        n_pairs=n_pairs,
        n_rejected=np.zeros(n, dtype=np.int64),
        weight=np.ones(len(first)),
        residual=residual,
        rejected=np.zeros(len(first), dtype=bool),
        scale=np.nan,
    )


@dataclass(frozen=True, eq=False)
class _Outcome:
    """An image with its solution, and the tables that say it."""

    image: str
    detectors: Table
    skies: Skies
    pairs: Pairs
    given: np.ndarray  # backgrounds that the user fixed
    solution: Solution

    def background_table(self) -> Table:
        skies, solution = self.skies, self.solution
        names = {name: np.array([str(v) for v in self.detectors[name]], dtype=str) for name in ("Field", "Root", "EXTNAME")}
        sides = (np.asarray(self.detectors[name], dtype=np.float64) for name in ("NAXIS1", "NAXIS2"))
        b = np.where(np.isfinite(self.given), self.given, skies.level + solution.background.b * skies.area)
        values = names | {
            "file": self.files,
            "Image": np.full(len(b), self.image),
            "b_err": solution.error * skies.area,
            "component": solution.component,
            "n_pairs": solution.n_pairs,
            "n_rejected": solution.n_rejected,
            "own": skies.level,
            "SUB_BACK": np.asarray(self.detectors["SUB_BACK"]),
            **replace((solution.background * skies.area).per_pixel(*sides), b=b).columns(),
            "Remark": np.array(self.remarks, dtype=str),
        }
        return tables.from_arrays(values, tables.BACKGROUNDS)

    def overlap_table(self) -> Table:
        """Differences as people know them: of the levels of raw x XFACTOR, per native pixel."""
        skies, pairs, area = self.skies, self.pairs, self.area
        shift = skies.level[pairs.second] - skies.level[pairs.first]
        values = {
            "Image": np.full(len(pairs), self.image),
            "File1": self.files[pairs.first],
            "File2": self.files[pairs.second],
            "Sep": pairs.separation,
            "Ncells": pairs.n_cells,
            "Npix": np.rint(pairs.n_cells * skies.cell**2 / area).astype(np.int64),
            "Delta": pairs.difference * area + shift,
            "e_Delta": pairs.error * area,
            "Before": self.before,
            "After": self.after,
            "Weight": self.solution.weight,
            "Rejected": self.solution.rejected,
            "Skew": pairs.skew,
            "Kurt": pairs.kurtosis,
            "STD": pairs.std * area,
            "ClipSTD": pairs.clipped_std * area,
        }
        levels = {"Mode": "mode", "Mean": "mean", "Med": "median", "ClipMean": "clipped_mean", "ClipMed": "clipped_median"}
        values |= {column: getattr(pairs, name) * area + shift for column, name in levels.items()}
        values |= {f"Block{k + 1}": pairs.blocks[:, k] * area + shift for k in range(N_BLOCKS)}
        return tables.from_arrays(values, tables.OVERLAPS)

    @cached_property
    def files(self) -> np.ndarray:
        return np.array([f"{row['Root']}_{row['EXTNAME']}" for row in self.detectors], dtype=str)

    @cached_property
    def area(self) -> np.ndarray:
        """Of the pixels of each pair."""
        return 0.5 * (self.skies.area[self.pairs.first] + self.skies.area[self.pairs.second])

    @cached_property
    def before(self) -> np.ndarray:
        original = (np.asarray(self.detectors["SUB_BACK"], dtype=np.float64) - self.skies.level) / self.skies.area
        return (self.pairs.difference - (original[self.pairs.second] - original[self.pairs.first])) * self.area

    @cached_property
    def after(self) -> np.ndarray:
        return self.solution.residual * self.area

    @cached_property
    def remarks(self) -> list[str]:
        """What is special about each detector; empty for most."""
        remarks = []
        touching = {*self.pairs.small_first.tolist(), *self.pairs.small_second.tolist()}
        for i, known in enumerate(np.isfinite(self.given)):
            n, n_rejected = int(self.solution.n_pairs[i]), int(self.solution.n_rejected[i])
            words = ["fixed by the user"] if known else []
            if n == 0:
                why = "too few good cells in its overlaps" if i in touching else "no overlap with another detector"
                why = why if self.skies.has_map[i] else "no binned map could be made of it"
                words.append(why if known else f"{why}: own sky level kept")
            elif n_rejected == n:
                words.append("all its overlaps contradict the rest")
            elif n_rejected > MOST * n:
                words.append(f"contradicts {n_rejected} of its {n} overlaps")
            remarks.append("; ".join(words))
        return remarks

    def numbers(self, config: MatchConfig) -> dict:
        """The row of this image in the table of numbers; None where one is not known, because JSON has no NaN."""
        known, solution, before, after = np.isfinite(self.given), self.solution, self.before, self.after
        sizes = np.bincount(solution.component)
        shape: list[str] = [config.shape] if config.shape != "constant" else []
        shape += ["amplifier steps"] if config.amplifier_steps else []
        agreeing = after[~solution.rejected & np.isfinite(after)]
        row = {
            "Image": self.image,
            "Method": ", ".join([config.method, *shape]),
            "N_det": len(known),
            "N_pairs": len(self.pairs),
            "N_reject": int(solution.rejected.sum()),
            "N_comp": int(np.count_nonzero(sizes > 1)),
            "N_alone": int(np.count_nonzero((solution.n_pairs == 0) & ~known)),
            "N_fixed": int(np.count_nonzero(known)),
            "Before": robust_rms(before),
            "After": robust_rms(after),
            "rms_bef": _rms(before[np.isfinite(before)]),
            "rms_aft": _rms(agreeing),
            "b_err": _median(solution.error * self.skies.area),
            "Scale": float(solution.scale),
            "Remark": self._remark(sizes),
        }
        return {name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in row.items()}

    def _remark(self, sizes: np.ndarray) -> str:
        """What was special in this image, and what was done about it."""
        words, remarks, names = [], self.remarks, map(str, self.detectors["EXTNAME"])
        if np.count_nonzero(sizes > 1) > 1:
            groups = ", ".join(map(str, sorted(sizes[sizes > 1].tolist(), reverse=True)[:5]))
            words.append(f"overlaps connect separate groups of {groups} detectors: each is on the level of its own skies")
        for what, how in (
            ("no overlap", "without an overlap, on their own sky levels"),
            ("too few good cells", "with too few good cells in their overlaps, on their own sky levels"),
            ("no binned map", "without a binned map, on their own sky levels"),
            ("contradict", "contradict their neighbours"),
        ):
            n = sum(what in remark for remark in remarks)
            words += [f"{n} of {counted(len(remarks), 'detector')} {how}"] if n else []
        if any(name.upper() == UNSTABLE and "contradict" in remark for name, remark in zip(names, remarks, strict=True)):
            words.append(f"{UNSTABLE} among them, which is known for an unstable amplifier (--tiling.leave-out {UNSTABLE}.A)")
        if self.solution.scale > LARGE_SCALE:
            words.append(f"the overlaps disagree by {self.solution.scale:.1f} times their errors, which b_err contains")
        if self.pairs.small_first.size:
            words.append(f"{counted(self.pairs.small_first.size, 'overlap')} with too few good cells not used")
        return "; ".join(words)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2))) if values.size else np.nan


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else np.nan


def explain(row: Mapping) -> str:
    """One line for a person: how much better an image got; its row has the columns `kred_core.products.tables.MATCHING`."""
    parts = [f"{row['Image']}: {counted(int(row['N_det']), 'detector')}, {counted(int(row['N_pairs']), 'overlap')}"]
    if int(row["N_pairs"]):
        parts.append(f"differences {_short(row['Before'])} -> {_short(row['After'])} counts28/pixel")
    if int(row["N_pairs"]) and np.isfinite(row["Seam_off"]):
        if row["Jump_aft"] > row["Jump_bef"]:  # groups without overlaps are apart now, where exposures' backgrounds were closer
            before, after = _short(row["Jump_bef"]), _short(row["Jump_aft"])
            parts.append(f"steps between neighbouring blocks GREW from {before} to {after}, see the manual, 'separate groups'")
        else:
            parts.append(f"seams of {_short(row['Seam_off'])} removed")
    if np.isfinite(row["b_err"]):
        parts.append(f"standard error of a background {_short(row['b_err'])}")
    parts += [f"{counted(int(row['N_reject']), 'overlap')} rejected"] if int(row["N_reject"]) else []
    parts += [str(row["Remark"])] if row["Remark"] else []
    return "; ".join(parts)


def _short(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"
