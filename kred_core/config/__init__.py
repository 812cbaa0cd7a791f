"""Every option of kred: its name, unit, default, bounds and help text; first those of each stage, then of whole runs.

One pydantic model per stage, composed into `FieldConfig`. The same classes make the command line, the contents of
``kred.toml`` and the form in the Prefect UI, so an option is described in exactly one place. They hold plain values only
(no unions, no free dictionaries), because that is what the form can show: an empty text or list means "not set".
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

Stage = Literal["check", "summarize", "prepare", "tiles", "match", "coadd", "evaluate"]
STAGES: tuple[Stage, ...] = get_args(Stage)  # in the order in which they run
AMPLIFIERS = ("A", "B")  # of a detector, as in GAINA, RDNOISEB and the like

# Names become file names: letters, digits and a few signs, nothing that could lead elsewhere.
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$"
Name = Annotated[str, Field(pattern=NAME, max_length=64)]


def number(default: float, description: str, **bounds: Any) -> Any:
    """An option that is a number: its help says its bounds too, because the form in the Prefect UI does not."""
    words = {"ge": "at least", "gt": "more than", "le": "at most"}
    said = ", ".join(f"{words[name]} {bound:g}" for name, bound in bounds.items())
    return Field(default=default, description=f"{description} {said.capitalize()}.", **bounds)


def _title(section: type) -> str:
    """What a form calls a section."""
    return section.__name__.removesuffix("Config")


class Section(BaseModel):
    """Base of all sections: unknown options are errors, values cannot be changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, model_title_generator=_title)


def _on_the_sky(values: list[float]) -> list[float]:
    if values and len(values) != 2:
        raise ValueError("needs two numbers, RA and Dec in degrees")
    if values and not (0 <= values[0] < 360 and -90 <= values[1] <= 90):
        raise ValueError("needs 0 <= RA < 360 and -90 <= Dec <= 90 degrees")
    return values


Position = Annotated[list[float], Field(max_length=2), AfterValidator(_on_the_sky)]  # RA and Dec in degrees, or nothing


class SurveyConfig(Section):
    """Where the field and its tiles are, and which exposures make which image."""

    centre: Position = Field(
        default=[],
        description="Own field centre, RA,Dec in degrees (ICRS). The 16 tiles are laid around it on the survey's grid.",
    )
    tile_table: str = Field(
        default="", description="Own tile table (columns Field, Tile, RA, Dec, Size; degrees) instead of the survey's."
    )
    image_table: str = Field(
        default="",
        description="Own image table (columns Image, FILTER, EXPTIME in s): one row for each combination that is co-added into "
        "that image. An EXPTIME that is empty or *, or a table without this column: every exposure time of the filter, also "
        "those of other rows. Not given: the survey's images; for a field that is not the survey's one image for each filter.",
    )

    @model_validator(mode="after")
    def _one_place(self):
        if self.centre and self.tile_table:
            raise ValueError("give either centre or tile_table, not both")
        return self


class CheckConfig(Section):
    """Which exposures can be used."""

    zero_points: str = Field(
        default="",
        description="Table of zero points for exposures without MAGZERO, or to replace it (columns Root, MAGZERO in mag; an empty "
        "MAGZERO is none).",
    )
    verify_checksums: bool = Field(
        default=True, description="Compare each HDU that has a DATASUM with its bytes (reads the whole file, decodes nothing)."
    )


class SummarizeConfig(Section):
    """Statistics of each detector."""

    clipped: bool = Field(
        default=False, description="Mean, Med and STD from sigma-clipped pixels. Mode is always that of all good pixels."
    )
    clip_sigma: float = number(3.0, "Clipping limit in standard deviations.", ge=1, le=10)


class StampConfig(Section):
    """Detectors averaged onto the survey's grid of cells: what overlaps are measured from."""

    model_config = ConfigDict(title="Binned maps")

    cell_size: float = number(
        0.0,
        "Side of a cell in arcsec, the same for all fields of a galaxy. 0: 2 arcsec, but at least 4 and at most 8 of "
        "the detectors' pixels.",
        ge=0,
        le=600,
    )
    centre: Position = Field(
        default=[],
        description="Tangent point of the grid, RA,Dec in degrees, the same for all fields of a galaxy. Not given: the middle of "
        "the galaxy's fields in the survey, or of those in the tile table that are not far away.",
    )
    keep: bool = Field(
        default=True,
        description="Keep the binned maps in DECam_BACK when the field is done; otherwise a later run that needs them makes them "
        "again.",
    )


class PrepareConfig(Section):
    """Rescaling to counts28 and the background of each exposure."""

    background: Literal["mode", "median", "min", "none"] = Field(
        default="mode",
        description="Background of an exposure: median over its detectors of their Mode or of their Med, "
        "the smallest Mode, or none.",
    )
    output: Literal["compressed", "plain", "none"] = Field(
        default="compressed",
        description="Files in DECam_PREP: compressed as the input (rescaled without decoding), plain FITS, or none. "
        "Co-adding does not need them.",
    )


class TilingConfig(Section):
    """Which detectors feed a tile."""

    leave_out: list[Name] = Field(
        default=[],
        description="Detectors to leave out, by EXTNAME, for example S30; or one amplifier of a detector (native engine), as S7.A, "
        "which is known to be unstable: A reads the lower half of the columns of N detectors, the upper half of S detectors. "
        "Prepared and matched copies stay whole.",
    )
    max_seeing: float = number(0.0, "Leave out exposures with larger SEEING (arcsec). 0: keep all.", ge=0, le=20)
    all_fields: bool = Field(
        default=False, description="Use every prepared field of the same galaxy (name prefix) that covers the tile."
    )
    centre: Literal["table", "mean"] = Field(
        default="table", description="Centre mosaics on the tile table, or on the mean position of the detectors."
    )

    @model_validator(mode="after")
    def _amplifiers_exist(self):
        for name, amplifier in (entry.upper().split(".", 1) for entry in self.leave_out if "." in entry):
            if amplifier not in AMPLIFIERS:
                raise ValueError(f"leave_out: a detector has the amplifiers {name}.A and {name}.B, not {name}.{amplifier}")
        return self


class MatchConfig(Section):
    """Backgrounds that make overlapping detectors agree, found for the whole field at once."""

    method: Literal["huber", "svd"] = Field(
        default="huber",
        description="huber: robust weighted least squares. svd: as the older scripts did it, for comparison.",
    )
    min_cells: int = number(100, "Least number of good cells that a pair has in common.", ge=10, le=100000)
    shape: Literal["constant", "exposure-plane", "detector-plane"] = Field(
        default="constant",
        description="A background is a constant for each detector; or a constant and a plane whose slope all detectors of an "
        "exposure share, or each has for itself. Planes need the native engine; prepared copies get the constant alone.",
    )
    amplifier_steps: bool = Field(
        default=False,
        description="Fit a step between the two amplifiers of each detector too. Needs the native engine, as planes do.",
    )
    zero_point: Literal["darkest", "mean"] = Field(
        default="darkest",
        description="The common level, which differences leave open: of detectors that overlaps connect, the darkest tenth, or all "
        "on average, have matched backgrounds as high as their own skies. Emission that fills a field stays with darkest.",
    )
    fixed: str = Field(
        default="",
        description="Table of backgrounds that are known (columns Root, EXTNAME, b in counts28 per pixel; matched image = "
        "raw x XFACTOR - b): these are kept, the others follow.",
    )
    joint: bool = Field(
        default=False,
        description="Solve together with all other fields of the same galaxy (name prefix) that have binned maps, so that "
        "neighbouring fields agree.",
    )
    output: Literal["compressed", "plain", "none"] = Field(
        default="compressed",
        description="Matched copies of the detectors in DECam_PREP/FIELD/TILE_b: compressed as the input (rescaled without "
        "decoding), plain FITS, or none. Co-adding does not need them.",
    )


class BackgroundKind(StrEnum):
    """What is subtracted from the detectors of a mosaic."""

    ORIGINAL = "original"  # one background for each exposure
    MATCHED = "matched"  # one for each detector, so that overlaps agree

    @property
    def suffix(self) -> str:
        """End of the names of products: _b with matched backgrounds, as people know them."""
        return "_b" if self is BackgroundKind.MATCHED else ""


class CoaddConfig(Section):
    """Co-added tile images."""

    mosaics: Literal["matched", "original", "both", "none"] = Field(
        default="matched",
        description="Mosaics at full resolution: with matched backgrounds (TILE_b), with one background for each exposure "
        "(TILE), both, or none (only the quick look that the stage match makes).",
    )
    engine: Literal["native", "swarp"] = Field(
        default="native", description="kred's own co-adder, or SWarp (which must be installed as SWarp or swarp)."
    )
    combine: Literal["median", "clipped", "weighted"] = Field(
        default="median", description="Median, sigma-clipped mean, or mean weighted by 1/variance of the sky."
    )
    clip_sigma: float = number(4.0, "Limit of the clipped mean, in standard deviations.", ge=1, le=20)
    mask_codes: list[Annotated[int, Field(ge=1, le=8)]] = Field(
        default=[1, 2, 5],
        description="Codes of the ood mask whose pixels are left out of mosaics (native engine), statistics and binned maps, of "
        "the two latter also 3 and 4: 1 bad, 2 no value, 3 saturated, 4 bleed, 5 cosmic ray, 6 low weight, 7 difference, 8 streak. "
        "Masks of pipeline versions before 3.5.0, which are bits, are translated. Empty: use no masks.",
    )
    pixel_scale: float = number(0.0, "Pixel size in arcsec. 0: the detectors' own, rounded up to 0.01 arcsec.", ge=0, le=60)
    size: float = number(
        0.0, "Side of a mosaic in degrees. 0: Size in your own tile table; 0.6525 for the survey's tiles.", ge=0, le=5
    )
    memory: float = number(1.0, "Memory for one mosaic in the making, in GB (native engine).", ge=0.25, le=64)
    swarp_timeout: float = number(7200, "Longest time for one SWarp run, in s.", ge=10)

    @property
    def backgrounds(self) -> tuple[BackgroundKind, ...]:
        """Backgrounds with which mosaics are made: none, one or both, the original first."""
        return tuple(kind for kind in BackgroundKind if self.mosaics in (kind, "both"))


class EvaluateConfig(Section):
    """Figures and numbers of the mosaics."""

    stretch: float = number(0.1, "Grey scale of the figures: median +- this many std.", gt=0, le=10)
    figure_pixels: int = number(1200, "Pixels along a side of the image in a figure.", ge=200, le=8000)


class RunConfig(Section):
    """How the work is run; changes nothing in the results."""

    # "from" and "until" wherever people write or read options; Python has another use for the word.
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    only: list[Stage] = Field(default=[], description="Run only these stages, from what is on disk.")
    first: Stage = Field(default=STAGES[0], alias="from", description="First stage to run.")
    last: Stage = Field(default=STAGES[-1], alias="until", description="Last stage to run.")
    redo: bool = Field(
        default=False, description="Redo the chosen stages, also what is complete. Otherwise only what is missing or out of date."
    )
    runner: Literal["threads", "dask"] = Field(
        default="threads", description="Run tasks in threads, or in the processes of a Dask cluster."
    )
    workers: int = number(0, "Tasks at once. 0: one for each core; with dask_cluster: what that file says.", ge=0, le=256)
    dask_address: str = Field(
        default="", description="Runner dask: address of a scheduler that is running, for example tcp://HOST:8786."
    )
    dask_cluster: str = Field(
        default="",
        description="Runner dask: file that describes a cluster to start for the run; deployments/dask has examples. "
        "With neither of the two: processes of this machine.",
    )
    outside: list[str] = Field(
        default=[],
        description="Directories outside the data root to which links below it may lead, for products on other disks. Nothing is "
        "written to others.",
    )
    heavy_at_once: int = number(
        1,
        "Runs that may be in the stages that need most memory (match, coadd) at once, of all that use this data "
        "root on this machine; the others wait. 0: any number.",
        ge=0,
        le=64,
    )
    dry_run: bool = Field(default=False, description="Print the plan (stages, counts, disk, time) and do nothing.")

    @field_validator("runner", mode="before")
    @classmethod
    def _processes_are_those_of_dask(cls, value):
        if value == "processes":
            raise ValueError("the runner processes is now dask, which starts processes on this machine where no cluster is named")
        return value

    @model_validator(mode="after")
    def _stages_in_order(self):
        if STAGES.index(self.first) > STAGES.index(self.last):
            raise ValueError(f"no stage left to run: {self.first} comes after {self.last}")
        return self

    @model_validator(mode="after")
    def _one_cluster(self):
        if self.dask_address and self.dask_cluster:
            raise ValueError("give either dask_address or dask_cluster, not both")
        return self

    @property
    def stages(self) -> tuple[str, ...]:
        """Stages to run, in their order."""
        if self.only:
            return tuple(stage for stage in STAGES if stage in self.only)
        return STAGES[STAGES.index(self.first) : STAGES.index(self.last) + 1]


def _tiles_of_the_survey(schema: dict[str, Any]) -> None:
    """Let a form refuse tiles that no field has, unless there is a tile table of the user's own."""
    table = {"properties": {"tile_table": {"minLength": 1}}, "required": ["tile_table"]}
    schema["if"] = {"properties": {"survey": table}, "required": ["survey"]}
    schema["else"] = {"properties": {"tiles": {"items": {"enum": [f"T{n:02d}" for n in range(1, 17)]}}}}


class FieldConfig(Section):
    """The reduction of one field."""

    model_config = ConfigDict(json_schema_extra=_tiles_of_the_survey)

    field: Name = Field(description="Field to reduce: DECam_MEF/FIELD/mef must hold its exposures.")
    tiles: list[Name] = Field(default=[], description="Tiles to make, for example T07 T08. Not given: all tiles of the field.")
    root: Path = Field(default=Path("."), description="Data root: the directory that holds DECam_MEF.")
    run: RunConfig = RunConfig()
    survey: SurveyConfig = SurveyConfig()
    check: CheckConfig = CheckConfig()
    summarize: SummarizeConfig = SummarizeConfig()
    stamps: StampConfig = StampConfig()
    prepare: PrepareConfig = PrepareConfig()
    tiling: TilingConfig = TilingConfig()
    match: MatchConfig = MatchConfig()
    coadd: CoaddConfig = CoaddConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _the_engine_can_do_it(self):
        shaped = self.match.shape != "constant" or self.match.amplifier_steps
        if shaped and self.coadd.engine == "swarp" and self.coadd.mosaics in ("matched", "both"):
            raise ValueError(
                "match.shape and match.amplifier_steps need coadd.engine = native: SWarp subtracts one constant from a detector"
            )
        part = next((entry for entry in self.tiling.leave_out if "." in entry), "")
        if part and self.coadd.engine == "swarp" and self.coadd.backgrounds:
            raise ValueError(f"tiling.leave_out {part} needs coadd.engine = native: SWarp cannot leave out a part of a detector")
        return self

    @property
    def title(self) -> str:
        """Field and tiles, as people call a run."""
        return " ".join([self.field, *self.tiles])

    def with_absolute_paths(self) -> FieldConfig:
        """Return the same options for processes that may have another current directory."""

        def place(path: str) -> str:
            return str(Path(path).expanduser().absolute()) if path else ""

        def absolute(section: Section, *options: str) -> Section:
            return section.model_copy(update={option: place(getattr(section, option)) for option in options})

        sections = {
            "root": self.root.absolute(),
            "run": self.run.model_copy(update={"outside": [place(path) for path in self.run.outside]}),
            "survey": absolute(self.survey, "tile_table", "image_table"),
            "check": absolute(self.check, "zero_points"),
            "match": absolute(self.match, "fixed"),
        }
        return self.model_copy(update=sections)


class SeveralConfig(Section):
    """Several fields, each in a run of its own, with the options that stand in kred.toml."""

    fields: list[Name] = Field(default=[], description="Fields to reduce. Not given: every field below DECam_MEF.")
    tiles: list[Name] = Field(default=[], description="Tiles to make, for example T07 T08. Not given: all tiles of the fields.")
    root: Path = Field(default=Path("."), description="Data root: the directory that holds DECam_MEF.")
    run: RunConfig = RunConfig()


class DiscoverConfig(Section):
    """When a field that has arrived is reduced by itself."""

    settle: float = number(5, "A field is complete when none of its files has changed for so many minutes.", ge=0, le=1440)
    patience: float = number(
        60,
        "Minutes to wait for another copy of files that are truncated or damaged; then the field is reduced without them.",
        ge=0,
        le=10080,
    )
    tries: int = number(3, "How often a field that fails is started until its files change.", ge=1, le=20)
    fields: list[Name] = Field(default=[], description="Look only at these fields. Not given: at all below DECam_MEF.")


class ServiceConfig(Section):
    """kred as a service: fields that arrive are reduced by themselves."""

    every: int = number(10, "Look for new fields every so many minutes.", ge=1, le=1440)
    fields_at_once: int = number(1, "Fields that are reduced at once; the others wait.", ge=1, le=64)
    port: int = number(4200, "Port of the Prefect server, on this machine only.", ge=1, le=65535)
    notify: str = Field(
        default="",
        description="Where to tell of fields that failed: an address of Apprise, for example mailto://USER:PASSWORD@HOST or "
        "slack://... (not taken from kred.toml).",
    )
    discover: DiscoverConfig = DiscoverConfig()
