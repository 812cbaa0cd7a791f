"""Every option is described once, has bounds, and nothing contradictory or unknown gets in."""

import math
import typing
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from kred_core import config
from kred_core.config import CoaddConfig, FieldConfig, RunConfig, SurveyConfig, TilingConfig


def all_sections():
    models = (m for m in vars(config).values() if isinstance(m, type) and issubclass(m, BaseModel))
    return [m for m in models if m.__module__.startswith(config.__name__)]


def plain(annotation):
    """Whether a form and a table of options can show this type: no unions, no free dictionaries."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return plain(typing.get_args(annotation)[0])
    if origin is list:
        return all(plain(a) for a in typing.get_args(annotation))
    if origin is typing.Literal:
        return len(typing.get_args(annotation)) > 1
    return origin is None and annotation is not dict


def test_every_option_of_every_section_is_described_and_shown_by_a_form():
    assert len(all_sections()) == 14 + 1  # with their base
    for section in all_sections():
        for name, info in section.model_fields.items():
            assert plain(info.annotation), f"{section.__name__}.{name} is {info.annotation}"
            if not (isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)):
                assert (info.description or "").endswith("."), f"{section.__name__}.{name} has no description"


def test_every_number_has_a_lower_bound_and_is_finite():
    for section in all_sections():
        for name, info in section.model_fields.items():
            if info.annotation in (int, float):
                assert any(hasattr(m, "ge") or hasattr(m, "gt") for m in info.metadata), f"{section.__name__}.{name}"
                for value in (math.nan, math.inf, -1, "much"):
                    with pytest.raises(ValidationError):
                        section.model_validate({name: value})


def test_chosen_stages_run_in_the_order_of_the_pipeline():
    assert RunConfig().stages == ("check", "summarize", "prepare", "tiles", "match", "coadd", "evaluate")
    assert RunConfig(first="match", last="coadd").stages == ("match", "coadd")
    assert RunConfig(only=["evaluate", "check", "check"]).stages == ("check", "evaluate")
    with pytest.raises(ValidationError, match="no stage left to run: coadd comes after check"):
        RunConfig(first="coadd", last="check")


@pytest.mark.parametrize(
    "name", ["", " ", "..", "a/b", "a\\b", "a\n", "\na", "-x", "_x", ".x", "~", "a\0", "*", "é", "٣", "x" * 65]
)
def test_names_that_could_lead_outside_the_data_root_are_refused(name):
    for right in ("LMC_c42", "7", "a.b+c-d", "x" * 64):
        assert FieldConfig(field=right, tiles=[right]).field == right
    for wrong in ({"field": name}, {"field": "LMC_c42", "tiles": [name]}):
        with pytest.raises(ValidationError):
            FieldConfig(**wrong)
    with pytest.raises(ValidationError):
        TilingConfig(leave_out=[name])


@pytest.mark.parametrize("centre", [[10.0], [1.0, 2.0, 3.0], [-0.1, 0.0], [360.0, 0.0], [0.0, 90.1], [0.0, math.nan]])
def test_a_centre_off_the_sky_is_refused(centre):
    with pytest.raises(ValidationError):
        SurveyConfig(centre=centre)
    for edge in ([0.0, -90.0], [359.999999, 90.0], [0, 0]):
        assert SurveyConfig(centre=edge).centre == edge
    with pytest.raises(ValidationError, match="either centre or tile_table"):
        SurveyConfig(centre=[10.0, -70.0], tile_table="tiles.ecsv")


@pytest.mark.parametrize("codes", [[0], [-1], [9], [64], [1.5], ["bad"]])
def test_only_codes_that_a_mask_can_hold_are_accepted(codes):
    with pytest.raises(ValidationError):
        CoaddConfig(mask_codes=codes)
    assert CoaddConfig(mask_codes=[]).mask_codes == []


@pytest.mark.parametrize("shape", [{"shape": "exposure-plane"}, {"shape": "detector-plane"}, {"amplifier_steps": True}])
def test_what_swarp_cannot_subtract_is_refused_before_anything_is_done(shape):
    for mosaics in ("matched", "both"):
        with pytest.raises(ValidationError, match=r"need coadd\.engine = native"):
            FieldConfig(field="LMC_c42", match=shape, coadd={"engine": "swarp", "mosaics": mosaics})
    for coadd in ({"engine": "native"}, {"engine": "swarp", "mosaics": "original"}, {"engine": "swarp", "mosaics": "none"}):
        FieldConfig(field="LMC_c42", match=shape, coadd=coadd)


def test_one_amplifier_can_be_left_out_by_the_native_engine_only():
    for coadd in ({"engine": "native"}, {"engine": "swarp", "mosaics": "none"}):
        FieldConfig(field="LMC_c42", tiling={"leave_out": ["S7.A", "n30.b", "S2"]}, coadd=coadd)
    with pytest.raises(ValidationError, match=r"leave_out S7\.A needs coadd\.engine = native: SWarp cannot leave out a part"):
        FieldConfig(field="LMC_c42", tiling={"leave_out": ["S2", "S7.A"]}, coadd={"engine": "swarp"})
    FieldConfig(field="LMC_c42", tiling={"leave_out": ["S7"]}, coadd={"engine": "swarp"})


@pytest.mark.parametrize("part", ["C", "upper", ""])
def test_an_amplifier_that_no_detector_has_is_named_with_those_that_it_has(part):
    with pytest.raises(ValidationError, match=rf"the amplifiers S7\.A and S7\.B, not S7\.{part.upper()}"):
        TilingConfig(leave_out=[f"S7.{part}"])


def test_what_is_not_an_option_is_an_error_in_every_section():
    for section in all_sections():
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            section.model_validate({"field": "LMC_c42", "turbo": True} if section is FieldConfig else {"turbo": True})


def test_a_configuration_cannot_change_under_a_run():
    resolved = FieldConfig(field="LMC_c42")
    with pytest.raises(ValidationError, match="frozen"):
        resolved.coadd.engine = "swarp"


def test_other_processes_get_absolute_paths_and_nothing_else_changes(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = FieldConfig(
        field="LMC_c42", root="data", run={"outside": ["~/disk"]}, survey={"tile_table": "t.ecsv"}, match={"fixed": "/f"}
    )
    found = given.with_absolute_paths()
    assert found.root == tmp_path / "data"
    assert found.run.outside == [str(Path.home() / "disk")]
    assert found.survey.tile_table == str(tmp_path / "t.ecsv")
    assert (found.match.fixed, found.check.zero_points) == ("/f", given.check.zero_points)
    assert found.with_absolute_paths() == found
    assert (found.coadd, found.tiling, found.field) == (given.coadd, given.tiling, given.field)
