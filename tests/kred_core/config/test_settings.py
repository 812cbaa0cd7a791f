"""Options come from the command line, the environment, kred.toml and the defaults, in this order, and mistakes are explained."""

import contextlib
import io
import json
import os
import re

import pytest

from kred_core.config import FieldConfig, RunConfig
from kred_core.config.settings import FIELD, answer, field_config, service_config, survey_configs, to_toml
from kred_core.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_options_from_outside(monkeypatch, tmp_path):
    for name in os.environ:
        if name.upper().startswith("KRED_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def toml(tmp_path):
    return lambda text: (tmp_path / "kred.toml").write_text(text, encoding="utf-8")


def help_text(command):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as exit:
        command(["--help"])
    assert exit.value.code == 0
    return out.getvalue()


def refused_arguments(arguments, capsys, command=field_config):
    with pytest.raises(SystemExit) as exit:
        command(arguments)
    assert exit.value.code == 2
    return capsys.readouterr().err


# precedence


def test_each_source_wins_over_the_one_below_it(monkeypatch, toml):
    toml("[coadd]\nsize = 0.1\nclip_sigma = 5\nmemory = 2\n")
    monkeypatch.setenv("KRED_COADD__SIZE", "0.2")
    monkeypatch.setenv("KRED_COADD__CLIP_SIGMA", "6")
    coadd = field_config(["LMC_c42", "--coadd.size", "0.3"]).coadd
    assert (coadd.size, coadd.clip_sigma, coadd.memory, coadd.engine) == (0.3, 6.0, 2.0, "native")


def test_a_flag_and_a_list_of_the_file_can_be_taken_back_on_the_command_line(toml):
    toml("[run]\nredo = true\n[tiling]\nleave_out = ['S7', 'S30']\n[coadd]\nmask_codes = [3]\n")
    resolved = field_config(["LMC_c42"])
    assert (resolved.run.redo, resolved.tiling.leave_out, resolved.coadd.mask_codes) == (True, ["S7", "S30"], [3])
    resolved = field_config(["LMC_c42", "--no-redo", "--tiling.leave-out", "N30", "--coadd.mask-codes", "[]"])
    assert (resolved.run.redo, resolved.tiling.leave_out, resolved.coadd.mask_codes) == (False, ["N30"], [])


def test_the_file_is_the_one_in_the_data_root_wherever_a_person_is(monkeypatch, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "kred.toml").write_text("[coadd]\nengine = 'swarp'\n")
    assert field_config(["LMC_c42"]).coadd.engine == "native"
    for arguments in (["LMC_c42", "--root", str(data)], ["LMC_c42", f"--root={data}"], ["--root", "data", "LMC_c42"]):
        assert field_config(arguments).coadd.engine == "swarp"
    monkeypatch.setenv("KRED_ROOT", str(data))
    assert field_config(["LMC_c42"]).coadd.engine == "swarp"
    assert field_config(["LMC_c42"]).root == data
    assert field_config(["LMC_c42", "--root", "."]).coadd.engine == "native"


def test_without_any_source_only_the_field_differs_from_the_defaults_and_an_empty_variable_is_as_none(monkeypatch):
    assert field_config(["LMC_c42"]) == FieldConfig(field="LMC_c42")
    for name in ("KRED_COADD__ENGINE", "KRED_TILES", "KRED_COADD__SIZE", "KRED_ROOT"):
        monkeypatch.setenv(name, "")
    assert field_config(["LMC_c42"]) == FieldConfig(field="LMC_c42")


# lists and positional arguments


@pytest.mark.parametrize("written", ["S7,S30", "S7, S30", "[S7,S30]", '["S7","S30"]'])
def test_lists_are_written_the_same_on_the_command_line_and_in_the_environment(written, monkeypatch):
    assert field_config(["X", "--tiling.leave-out", written]).tiling.leave_out == ["S7", "S30"]
    monkeypatch.setenv("KRED_TILING__LEAVE_OUT", written)
    assert field_config(["X"]).tiling.leave_out == ["S7", "S30"]


def test_lists_of_one_and_of_numbers(monkeypatch):
    for name, value in (("COADD__MASK_CODES", "1"), ("SURVEY__CENTRE", "186.744,-25.5"), ("TILES", "07")):
        monkeypatch.setenv(f"KRED_{name}", value)
    resolved = field_config(["X"])
    assert (resolved.coadd.mask_codes, resolved.survey.centre, resolved.tiles) == ([1], [186.744, -25.5], ["07"])
    resolved = field_config(["X", "08", "--survey.centre", "0,-90", "--tiling.leave-out", "S7", "--tiling.leave-out", "N1,N2"])
    assert (resolved.tiles, resolved.survey.centre, resolved.tiling.leave_out) == (["08"], [0.0, -90.0], ["S7", "N1", "N2"])


@pytest.mark.parametrize(
    "line", ["LMC_c42 T07 T08 --redo", "LMC_c42 --redo T07 T08", "LMC_c42 T07 --redo T08", "LMC_c42 T07,T08 --redo"]
)
def test_tiles_may_stand_before_and_after_options(line):
    with pytest.raises(ConfigError, match="option tiles: expected a name"):  # and not all tiles
        field_config(["LMC_c42", ""])
    resolved = field_config(line.split())
    assert (resolved.field, resolved.tiles, resolved.run.redo) == ("LMC_c42", ["T07", "T08"], True)


# options of a run: typed without the name of their section


def test_from_and_until_have_these_names_in_the_command_the_environment_the_file_and_the_form(toml, monkeypatch):
    typed = field_config(["X", "--from", "prepare", "--until", "coadd", "--workers", "3"]).run
    assert (typed.first, typed.last, typed.workers, typed.redo, typed.dry_run) == ("prepare", "coadd", 3, False, False)
    toml("[run]\nfrom = 'prepare'\nuntil = 'coadd'\n")
    monkeypatch.setenv("KRED_RUN__WORKERS", "3")
    assert field_config(["X"]).run == typed
    monkeypatch.setenv("KRED_RUN__UNTIL", "tiles")
    assert field_config(["X"]).run.last == "tiles"
    assert {"from", "until"} < set(RunConfig.model_json_schema()["properties"])
    assert RunConfig.model_validate(typed.model_dump(mode="json")) == typed
    assert typed.model_dump()["from"] == "prepare"


def test_a_wrong_value_of_a_shortcut_is_named_as_it_is_typed():
    with pytest.raises(ConfigError, match=r"option run\.until \(--until\): input should be 'check', .* or 'evaluate', not 'coad'"):
        field_config(["X", "--until", "coad"])
    with pytest.raises(ConfigError, match="no stage left to run: evaluate comes after check"):
        field_config(["X", "--from", "evaluate", "--until", "check"])


# mistakes


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("--coadd.engin=swarp", "--coadd.engine"),
        ("--engine", "--coadd.engine"),
        ("--coadd.mask_codes", "--coadd.mask-codes"),
        ("--unti", "--until"),
        ("--run.redo", "--redo"),
        ("--dryrun", "--dry-run"),
    ],
)
def test_an_unknown_argument_is_named_with_the_one_that_was_meant(wrong, meant, capsys):
    text = refused_arguments(["LMC_c42", wrong], capsys)
    assert text.endswith(f"option {wrong.split('=')[0]} is not known; did you mean {meant}?\n")


def test_arguments_that_cannot_be_parsed_end_with_status_2_and_the_usage(capsys):
    for arguments in ([], ["LMC_c42", "--root"], ["LMC_c42", "--xyzzy"], ["LMC_c42", "--coadd.size"]):
        assert refused_arguments(arguments, capsys).startswith("usage: python flows/field.py FIELD [TILE ...]")
    assert "usage: python flows/survey.py" in refused_arguments(["--root"], capsys, survey_configs)


@pytest.mark.parametrize("wrong", ["KRED_COADD__ENGIN", "KRED_COADD__engin", "KRED_COAD__ENGINE", "KRED_COADD_ENGINE"])
def test_an_unknown_environment_variable_is_named_with_the_one_that_was_meant(wrong, monkeypatch):
    monkeypatch.setenv(wrong, "swarp")
    with pytest.raises(ConfigError, match=rf"^the environment variable {wrong} is no .*; did you mean KRED_COADD__ENGINE\?$"):
        field_config(["LMC_c42"])


def test_an_option_of_an_earlier_version_is_named_with_what_takes_its_place(monkeypatch, capsys):
    for option in ("--no-summarize.use-masks", "--summarize.use-masks"):
        said = refused_arguments(["LMC_c42", option], capsys)
        assert f"option {option} is not known any more: coadd.mask_codes takes its place" in said
    monkeypatch.setenv("KRED_SUMMARIZE__USE_MASKS", "false")
    with pytest.raises(ConfigError, match=r"is no option of kred any more: coadd\.mask_codes takes its place"):
        field_config(["LMC_c42"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[coadd]\nengin = 'swarp'", "option coadd.engin is not known; did you mean coadd.engine?"),
        ("engine = 'swarp'", "option engine is not known; did you mean coadd.engine?"),
        ("[coadd]\nmask-codes = [1]", "option coadd.mask-codes is not known; did you mean coadd.mask_codes?"),
        ("[run]\nfrom = 'coad'", "option run.from (--from): input should be 'check', "),
        ('[run]\nrunner = "processes"\n', "option run.runner (--runner): the runner processes is now dask"),
        ("root = '/elsewhere'", "kred.toml: remove the line 'root'"),
        ("[coadd", "kred.toml cannot be read: "),
        ("[coadd]\nsize = -1", "option coadd.size: input should be greater than or equal to 0, not -1"),
        ("coadd = 3", "option coadd is a section of options, as [coadd] in kred.toml, not 3"),
        ("tiles = 'T01'", "option tiles: input should be a valid list, not 'T01'"),
        ("[survey]\ncentre = [1, 2, 3]", "option survey.centre: expected at most 2 values, not [1, 2, 3]"),
        ("[summarize]\nuse_masks = false", "option summarize.use_masks is not known any more: coadd.mask_codes takes its place"),
        ("[tiling]\nleave_out = ['../S7']", "option tiling.leave_out: expected a name of letters, digits and _ . + -"),
    ],
)
def test_a_mistake_in_the_file_is_explained_in_one_line(text, message, toml):
    toml(text)
    with pytest.raises(ConfigError) as error:
        field_config(["LMC_c42"])
    assert str(error.value).startswith(message)
    toml("[coadd]\nengin = 'swarp'\nsize = -1\n[run]\nredo = 'maybe'\n")
    with pytest.raises(ConfigError, match=r"\A(.+\n){2}.+\Z"):  # one line for each
        field_config(["LMC_c42"])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("run.dask_address", "tcp://elsewhere:8786"),
        ("run.dask_cluster", "cluster.toml"),
        ("run.outside", "/home"),
        ("service.notify", "json://elsewhere"),
    ],
)
def test_what_starts_programs_or_leads_elsewhere_is_not_taken_from_a_file_that_others_may_write(option, value, toml, monkeypatch):
    section, name = option.split(".")
    variable, typed = f"KRED_{section}__{name}".upper(), f"--{name.replace('_', '-')}"
    loads = [(service_config, [])] if section == "service" else []
    toml(f"[{section}]\n{name} = {json.dumps([value] if name == 'outside' else value)}\n")
    for load, arguments in [*loads, (field_config, ["LMC_c42"])]:
        with pytest.raises(ConfigError, match=rf"option {option} is not taken from there.*give {typed} on .*, or {variable} in"):
            load(arguments)
    toml("")
    load = (lambda more: service_config(more)[0]) if loads else (lambda more: field_config(["LMC_c42", *more]).run)
    assert value in getattr(load([typed, value]), name)
    monkeypatch.setenv(variable, value)
    assert value in getattr(load([]), name)


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "a\nb", "x" * 65])
def test_names_that_could_lead_outside_are_refused_from_every_source(name, monkeypatch, toml):
    for arguments in ([name], ["X", name], ["X", "--tiling.leave-out", name]):
        with pytest.raises(ConfigError, match=r"expected a name of letters|at most 64|cannot be understood"):
            field_config(arguments)
    with pytest.raises(ConfigError, match="option fields: "):
        survey_configs(["A", name])
    monkeypatch.setenv("KRED_TILES", f"T01,{name},T02")
    with pytest.raises(ConfigError, match="option tiles: "):
        field_config(["X"])
    monkeypatch.delenv("KRED_TILES")
    toml(f"tiles = [{json.dumps(name)}]")
    with pytest.raises(ConfigError, match="option tiles: "):
        field_config(["X"])


# help


@pytest.mark.parametrize("command", [field_config, survey_configs])
def test_the_help_mentions_every_option_with_its_description_and_shows_no_python(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "not a number")
    text = help_text(command)
    words = " ".join(text.split())
    fields = FieldConfig.model_fields.items()
    sections = {f"{name}.": info.annotation for name, info in fields if hasattr(info.annotation, "model_fields")}
    for section, model in {"": FieldConfig, **sections}.items():
        for name, info in model.model_fields.items():
            if f"{name}." in sections or (name == "field" and command is survey_configs):
                continue
            flag = f"--{section.removeprefix('run.')}{info.alias or name}".replace("_", "-")
            shown = name.upper() if command is field_config and name in ("field", "tiles") else flag
            assert f" {shown} " in words or f" {shown}, " in words, f"{shown} is not in the help"
            description = info.description
            assert description in words.replace("- ", "-") or description in words, f"{flag}: its description is not in the help"
    assert max(map(len, text.splitlines())) <= 110
    assert "(default: 1,2,5)" in words
    for python in ("list[", "str", "float", "int", "bool", "Path", "None", "True", "False", "==SUPPRESS==", "{}", "[1, 2"):
        found = re.search(rf"(?<![A-Za-z]){re.escape(python)}(?![A-Za-z])", text)
        assert not found, f"the help says {python!r}: ...{text[max(0, found.start() - 60) : found.end() + 20]}"


def test_the_examples_in_the_help_are_right():
    found = re.findall(r"python flows/field\.py (.*?)(?:   +|$)", FIELD.examples.format(prog="python flows/field.py"), re.MULTILINE)
    assert len(found) == 5
    for line in found:
        assert field_config(line.split()).field == "LMC_c42"
    configs = survey_configs(["LMC_c41", "LMC_c42", "LMC_c41", "--tiles", "T01,T02", "--until", "prepare"])
    assert configs == [field_config([field, "T01", "T02", "--until", "prepare"]) for field in ("LMC_c41", "LMC_c42")]


def test_all_fields_are_those_that_have_a_directory_of_exposures(tmp_path):
    with pytest.raises(ConfigError, match="name at least one, or give --all"):
        survey_configs([])
    with pytest.raises(ConfigError, match=rf"none is there \(looked below {re.escape(str(tmp_path))}/DECam_MEF\)"):
        survey_configs(["--all", "--root", str(tmp_path)])
    for field in ("LMC_c42", "SMC_b3", "LMC_c41"):
        (tmp_path / "DECam_MEF" / field / "mef").mkdir(parents=True)
    (tmp_path / "DECam_MEF" / "notes").mkdir()
    for arguments in (["--all"], ["--all", "--root", str(tmp_path)]):
        assert [c.field for c in survey_configs(arguments)] == ["LMC_c41", "LMC_c42", "SMC_b3"]
    (tmp_path / "DECam_MEF" / "LMC c43 copy" / "mef").mkdir(parents=True)
    with pytest.raises(ConfigError, match="not 'LMC c43 copy'"):
        survey_configs(["--all"])


# the resolved configuration


def test_a_resolved_configuration_configures_the_same_run_again(tmp_path, toml):
    line = "LMC_c42 T07 T08 --survey.centre 80.1,-69.5 --only check,tiles --tiling.leave-out S7,S30 --coadd.mask-codes [] --redo"
    arguments = [*line.split(), "--coadd.size", "0.1234567890123", "--check.zero-points", 'a "quoted" \\ name\twith é']
    resolved = field_config([*arguments, "--root", str(tmp_path)])
    toml(to_toml(resolved))
    again = field_config(["LMC_c42", "--root", str(tmp_path)])
    assert again == resolved.model_copy(update={"tiles": [], "run": again.run})
    assert again.run == RunConfig()


def test_a_resolved_configuration_does_not_depend_on_where_the_data_are(tmp_path):
    here, there = (to_toml(FieldConfig(field="LMC_c42", root=root)) for root in (tmp_path, tmp_path / "b"))
    assert here == there
    assert str(tmp_path) not in here
    sections = [line[1:-1] for line in here.splitlines() if line.startswith("[")]
    assert sections == ["survey", "check", "summarize", "stamps", "prepare", "tiling", "match", "coadd", "evaluate"]


def test_a_mistake_in_the_file_ends_a_program_with_a_message_and_status_2(capsys, toml):
    assert answer(field_config, ["LMC_c42"]) == field_config(["LMC_c42"])
    toml("[coadd]\nturbo = true\n")
    with pytest.raises(SystemExit) as ended:
        answer(field_config, ["LMC_c42"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "turbo" in said
