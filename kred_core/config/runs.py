"""What is reduced, and when: a field, several fields, those that arrive; each from the options of its stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from . import stages
from .stages import Name, RunConfig, Section, number


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
    survey: stages.SurveyConfig = stages.SurveyConfig()
    check: stages.CheckConfig = stages.CheckConfig()
    summarize: stages.SummarizeConfig = stages.SummarizeConfig()
    stamps: stages.StampConfig = stages.StampConfig()
    prepare: stages.PrepareConfig = stages.PrepareConfig()
    tiling: stages.TilingConfig = stages.TilingConfig()
    match: stages.MatchConfig = stages.MatchConfig()
    coadd: stages.CoaddConfig = stages.CoaddConfig()
    evaluate: stages.EvaluateConfig = stages.EvaluateConfig()

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

        def absolute(section: Section, *options: str) -> Section:
            given = {option: getattr(section, option) for option in options}
            return section.model_copy(update={option: place(path) for option, path in given.items() if path})

        def place(path: str) -> str:
            return str(Path(path).expanduser().absolute())

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
