"""The stage prepare: detectors in counts28 minus one background per exposure, for people who want to look at them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from astropy.table import Table

from ..config import FieldConfig
from ..exposures import rescale
from ..exposures.check import ExposureReport
from ..exposures.exposure import Exposure
from ..products import FieldPaths
from ..words import counted
from .executor import UnitRunner
from .stage import Cost, Plan, Planned, Stage
from .summarize import STAGE as SUMMARIZE
from .summarize import read_summary
from .work import Manifest, Step, Work

SECONDS_PER_EXPOSURE, SECONDS_PER_MPIX = 0.03, 0.0014  # CPU


@dataclass(frozen=True)
class Rescaling:
    """Detectors of one exposure in other counts: out = raw * scale - back."""

    field: str
    root: str
    file: str
    scale: float
    backs: tuple[tuple[str, float], ...]  # by EXTNAME, in counts28 per native pixel
    image: str = ""  # in the names of matched detectors whose exposure feeds several

    @property
    def unit(self) -> str:
        return f"{self.root}.{self.image}" if self.image else self.root


@dataclass(frozen=True)
class Rescaled:
    """The detectors that a stage rescales for people to look at."""

    wanted: Callable[[FieldConfig], str]  # "compressed" as the input, "plain" or "none"
    place: Callable[[FieldPaths, Rescaling, str, bool], Path]  # of a detector, by EXTNAME and whether it is plain

    def work(self, config: FieldConfig, plan: Rescaling) -> Work:
        facts = asdict(plan) | {"backs": [list(back) for back in plan.backs], "output": self.wanted(config)}
        return Work(plan.unit, files=[FieldPaths(config.root, plan.field).exposure(plan.file)], facts=facts)

    def write(self, config: FieldConfig, plan: Rescaling) -> Manifest:
        """Write a file for each detector, and remove those of an earlier choice."""
        exposure = Exposure.open(FieldPaths(config.root, plan.field).exposure(plan.file))
        detectors = {d.extname: d for d in reversed(exposure.detectors)}
        written = []
        for extname, back in plan.backs:
            for plain in (False, True):
                path = self.place(FieldPaths.of(config), plan, extname, plain)
                if self.wanted(config) == ("plain" if plain else "compressed"):
                    rescale.rescale_detector(exposure.primary, detectors[extname], path, plan.scale, back, plain=plain)
                    written.append(path)
                else:
                    path.unlink(missing_ok=True)
        return Manifest.of(written)

    def files(self, config: FieldConfig, plans: Iterable[Rescaling]) -> list[Path]:
        """Return what `write` makes."""
        if self.wanted(config) == "none":
            return []
        paths, plain = FieldPaths.of(config), self.wanted(config) == "plain"
        return [self.place(paths, plan, extname, plain) for plan in plans for extname, _ in plan.backs]

    def size(self, config: FieldConfig, report: ExposureReport) -> float:
        """Return the bytes of all usable detectors of an exposure: as large as what they are made from."""
        match self.wanted(config):
            case "compressed":
                return FieldPaths.of(config).exposure(report.file).stat().st_size * len(report.detectors) / report.n_detectors
            case "plain":
                return report.n_pixels * 4
            case _:
                return 0.0


def preparations(config: FieldConfig, exposures: Table, detectors: Table) -> list[Rescaling]:
    """Return factor and background of each exposure in the tables."""
    members: dict[str, list[int]] = {}
    for i, root in enumerate(detectors["Root"]):
        members.setdefault(str(root), []).append(i)
    plans = []
    for row in exposures:
        own = detectors[members[str(row["Root"])]]
        scale = float(row["XFACTOR"])
        back = rescale.exposure_background(config.prepare.background, own["Mode"], own["Med"], scale)
        backs = tuple((str(extname), back) for extname in own["EXTNAME"])
        plans.append(Rescaling(config.field, str(row["Root"]), str(row["File"]), scale, backs))
    return plans


def plan_preparation(config: FieldConfig) -> list[Rescaling]:
    """Return factor and background of each usable exposure, from the tables."""
    return preparations(config, *read_summary(FieldPaths.of(config)))


PREPARED = Rescaled(
    lambda config: config.prepare.output, lambda paths, plan, extname, plain: paths.prepared_detector(plan.root, extname, plain)
)
PREPARE = Step("prepare", 1, PREPARED.work, PREPARED.write)


def _run(run: UnitRunner) -> None:
    run.each(PREPARE, [(p.unit, {"plan": p}) for p in run.once(plan_preparation)])


def _plan(plan: Plan) -> Sequence[Planned]:
    config, current = plan.config, set()
    if plan.is_fresh(SUMMARIZE):
        current = {p.root for p in plan_preparation(config) if PREPARE.is_current(config, {"plan": p})}
    to_do = [r for r in plan.usable if r.root not in current]
    return [Planned("prepare", "exposures", len(plan.usable), len(to_do), _cost(config, to_do))]


def _cost(config: FieldConfig, to_do: Sequence[ExposureReport]) -> Cost:
    seconds = len(to_do) * SECONDS_PER_EXPOSURE + sum(r.n_pixels for r in to_do) / 1e6 * SECONDS_PER_MPIX
    return Cost(seconds, sum(PREPARED.size(config, r) for r in to_do))


def _products(config: FieldConfig) -> list[Path]:
    return PREPARED.files(config, plan_preparation(config)) if config.prepare.output != "none" else []


def _leftovers(config: FieldConfig) -> list[str]:
    directory = FieldPaths.of(config).prepared
    old = set(directory.glob("[!.]*.fits*")) - set(_products(config))
    return [f"{counted(len(old), 'file')} of an earlier run in {directory}, not used"] if old else []


STAGE = Stage("prepare", run=_run, plan=_plan, products=_products, leftovers=_leftovers, cost=_cost, place="DECam_PREP")
