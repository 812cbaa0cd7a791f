"""What became of the input: of each detector of each exposure, whether it was used, and if not, why not.

A program that tells what it remembers does not notice what it has forgotten. So the account is made from both ends, from
the files that are there and from the products that are made; what is found at one end only is said, and the run is not complete.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..words import counted, some
from .check import ExposureReport

__all__ = ["Entry", "Key", "Ledger", "account", "input_rows"]

Key = tuple[str, str]  # Root, EXTNAME
REASONS = 6  # in the summary; the table of the input has all


@dataclass(frozen=True)
class Entry:
    """One detector of the input.

    Its fate is "used"; "left out", by choice, because nothing was made where it lies, or the whole file because it is not an
    exposure; "refused", it cannot be used; or "usable", it was not yet decided.
    """

    root: str
    file: str
    extname: str  # as in `ExposureReport.lost`; empty for an exposure of which not even the detectors are known
    fate: str
    reason: str = ""  # why it was left out or refused
    mosaics: tuple[tuple[str, str], ...] = ()  # tile and image of those that it was used for


@dataclass(frozen=True)
class Ledger:
    """All detectors of the input, by file and detector, and what does not add up."""

    entries: tuple[Entry, ...]
    faults: tuple[str, ...] = ()

    @property
    def n_refused(self) -> int:
        """Detectors, and exposures of which not even the detectors are known, that cannot be used."""
        return sum(e.fate == "refused" for e in self.entries)

    @property
    def n_used(self) -> int | None:
        """Detectors that were used; None where nothing was chosen yet."""
        n = Counter(e.fate for e in self.entries if e.extname)
        return n["used"] if n["used"] + n["left out"] and not n["usable"] else None

    @property
    def n_detectors(self) -> int:
        """Detectors, as far as they are known."""
        return sum(bool(e.extname) for e in self.entries)

    def explain(self) -> list[str]:
        """The sums, and why detectors were left out, a line each; refusals are told with the verdicts."""
        named = [e for e in self.entries if e.extname]
        n_files = len({e.file for e in self.entries if e.extname or e.fate == "refused"})
        n = Counter(e.fate for e in named)
        sums = ", ".join(f"{n[fate]} {fate}" for fate in ("used", "usable", "left out", "refused") if n[fate])
        lines = [f"{counted(n_files, 'exposure')}, {counted(len(named), 'detector')}" + (f": {sums}" if sums else "")]
        unread = sum(e.fate == "refused" and not e.extname for e in self.entries)
        lines += [f"of {counted(unread, 'exposure')} that cannot be read not even the detectors are known"] if unread else []
        reasons = Counter(e.reason for e in named if e.fate == "left out").most_common()
        lines += [f"{count} left out: {reason}" for reason, count in reasons[:REASONS]]
        rest = sum(count for _, count in reasons[REASONS:])
        return [*lines, f"{rest} left out for other reasons"] if rest else lines


def account(
    files: Iterable[str],
    reports: Sequence[ExposureReport],
    chosen: Mapping[Key, Sequence[tuple[str, str]]] | None = None,
    made: Mapping[tuple[str, str], Sequence[Mapping[Key, int]]] | None = None,
    left_out: Mapping[Key, str] | None = None,
    elsewhere: str = "",
    beside: Iterable[Entry] = (),
) -> Ledger:
    """Tell of each detector of the input what became of it, and find what does not add up.

    Parameters
    ----------
    files, reports
        The names of the exposures that are there, and the verdict on each.
    chosen : mapping or None
        Tile and image of the mosaics that each detector of the field was chosen for. None: nothing has been chosen yet.
    made : mapping or None
        By tile and image of those that exist, for each file (both backgrounds are two) and each of its inputs of this field:
        how many pixels it contributed. None: no mosaics were wanted, what was chosen is used.
    left_out : mapping or None
        Why detectors were left out, whatever the tile.
    elsewhere : str
        Why all other detectors that were not chosen were not.
    beside : iterable of Entry
        Files that are not exposures.
    """
    entries = [*beside]
    entries += [entry for report in reports for entry in _entries(report, chosen, made, left_out or {}, elsewhere)]
    faults = [*_files_differ(files, reports), *_sums_differ(reports, entries), *_mosaics_differ(entries, chosen or {}, made)]
    return Ledger(tuple(sorted(entries, key=lambda e: (e.file, e.extname))), tuple(faults))


def _entries(
    report: ExposureReport,
    chosen: Mapping[Key, Sequence[tuple[str, str]]] | None,
    made: Mapping[tuple[str, str], Sequence[Mapping[Key, int]]] | None,
    left_out: Mapping[Key, str],
    elsewhere: str,
) -> Iterable[Entry]:
    def entry(name: str, fate: str, reason: str = "", mosaics: Iterable[tuple[str, str]] = ()) -> Entry:
        return Entry(report.root, report.file, name, fate, reason, tuple(mosaics))

    refused = "; ".join(report.refused)
    if refused and not report.n_detectors:
        yield entry("", "refused", refused)
    for name, reason in report.lost:
        yield entry(name, "refused", reason)
    for name in report.taken:
        yield entry(name, "refused" if refused else "left out", refused or "taken from another processing of the exposure")
    for name in report.extnames:
        key = report.root, name
        if refused:
            yield entry(name, "refused", refused)
        elif chosen is None:
            yield entry(name, "usable")
        elif key not in chosen:
            yield entry(name, "left out", left_out.get(key, elsewhere))
        else:
            wanted = sorted(chosen[key])
            there = wanted if made is None else [m for m in wanted if all(i.get(key, 0) > 0 for i in made.get(m, [{}]))]
            if there:
                yield entry(name, "used", mosaics=there)
            elif made is not None and all(m in made for m in wanted):
                yield entry(name, "left out", "no pixel of the mosaics that it was chosen for has data of it")
            else:
                yield entry(name, "left out", f"there is no mosaic {', '.join(f'{t} {i}' for t, i in wanted)}")


def _files_differ(files: Iterable[str], reports: Sequence[ExposureReport]) -> Iterable[str]:
    there, judged = set(files), {r.file for r in reports}
    if there - judged:
        yield f"there was no verdict on {some(there - judged)}: arrived during this run, or could not be checked"
    if judged - there:
        yield f"gone since the verdict: {some(judged - there)}"


def _sums_differ(reports: Sequence[ExposureReport], entries: Sequence[Entry]) -> Iterable[str]:
    count = Counter(e.file for e in entries)
    for r in reports:
        if count[r.file] != max(r.n_detectors, 1):
            yield f"{r.file} has {counted(r.n_detectors, 'detector')}, the account {count[r.file]}"
    for (file, name), n in Counter((e.file, e.extname) for e in entries).items():
        if n > 1:
            yield f"detector {name} of {file} is in the account {n} times"


def _mosaics_differ(
    entries: Sequence[Entry],
    chosen: Mapping[Key, Sequence[tuple[str, str]]],
    made: Mapping[tuple[str, str], Sequence[Mapping[Key, int]]] | None,
) -> Iterable[str]:
    known = {(e.root, e.extname) for e in entries if e.fate in ("used", "left out")}
    if unknown := {"_".join(key) for key in chosen if key not in known}:
        yield f"chosen for tiles, but not among the usable detectors: {some(unknown)}; run the stage 'tiles' again (--from tiles)"
    for mosaic, inputs in ((mosaic, inputs) for mosaic, of_files in (made or {}).items() for inputs in of_files):
        wanted = {key for key, mosaics in chosen.items() if mosaic in mosaics}
        name = " ".join(mosaic)
        if missing := {"_".join(key) for key in wanted - set(inputs)}:
            yield f"chosen for the mosaic {name}, but not in it: {some(missing)}"
        if surplus := {"_".join(key) for key in set(inputs) - wanted}:
            yield f"in the mosaic {name}, but not chosen for it: {some(surplus)}"


def input_rows(ledger: Ledger) -> list[dict[str, str]]:
    """Rows of the table of the input."""
    return [
        {
            "Root": e.root,
            "EXTNAME": e.extname,
            "Fate": e.fate,
            "Image": " ".join(dict.fromkeys(image for _, image in e.mosaics)),
            "Tiles": " ".join(dict.fromkeys(tile for tile, _ in e.mosaics)),
            "Reason": e.reason,
            "File": e.file,
        }
        for e in ledger.entries
    ]
