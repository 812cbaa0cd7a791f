"""A record in the data root, where others may write, is data: nothing in it is executed, and it leads nowhere else."""

from __future__ import annotations

import base64
import gc
import json
import pickle
import weakref
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from prefect.results import ResultRecord, ResultRecordMetadata
from prefect.serializers import JSONSerializer, PickleSerializer

from kred_core.errors import InputError
from tasks.records import Manifest, ManifestSerializer, RecordStorage, read_manifest

MANIFEST = Manifest(products=(("/data/a", 3, 4),), values={"mode": 1.5})


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def traps(mark: Path) -> dict[str, bytes]:
    """Records as somebody would write them who wants the next run to do something else."""
    pickled = base64.encodebytes(pickle.dumps(Trap(mark))).decode()
    call = json.dumps({"a": [str(mark)]})
    return {
        "pickle": json.dumps({"metadata": {"serializer": {"type": "pickle"}}, "result": pickled}).encode(),
        "no serializer": json.dumps({"metadata": {}, "result": pickled}).encode(),
        "old format": json.dumps({"data": pickled, "serializer": {"type": "pickle"}}).encode(),
        "both": json.dumps(
            {"metadata": {"serializer": {"type": "kred-manifest"}}, "serializer": {"type": "pickle"}, "result": pickled}
        ).encode(),
        "a function": json.dumps(
            {"metadata": {"serializer": {"type": "json", "object_decoder": "builtins.print"}}, "result": call}
        ).encode(),
        "compressed": json.dumps(
            {"metadata": {"serializer": {"type": "compressed/pickle", "serializer": {"type": "pickle"}}}, "result": pickled}
        ).encode(),
    }


def stored(storage: RecordStorage, content: bytes) -> Path:
    path = Path(storage.basepath, "check", "a", "1-digest")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def storage(tmp_path) -> RecordStorage:
    return RecordStorage(basepath=str(tmp_path / "results"))


def test_prefect_itself_would_execute_what_a_record_says(tmp_path):
    """Why this module is there: should this test fail one day, Prefect has become careful and the module can go."""
    mark = tmp_path / "executed"
    ResultRecord.deserialize(traps(mark)["pickle"])
    assert mark.exists()


@pytest.mark.parametrize("name", list(traps(Path("x"))))
def test_a_record_that_wants_to_be_read_otherwise_is_none(name, storage, tmp_path):
    mark = tmp_path / "executed"
    path = stored(storage, traps(mark)[name])
    assert read_manifest(path) is None
    with pytest.raises(ValueError, match="is no record of kred"):
        storage.read_path("check/a/1-digest")
    assert not mark.exists()


@pytest.mark.parametrize("serializer", [PickleSerializer(), JSONSerializer()], ids=["pickle", "json"])
def test_records_of_prefects_own_kind_are_none(serializer, storage):
    record = ResultRecord(result=MANIFEST, metadata=ResultRecordMetadata(serializer=serializer))
    assert read_manifest(stored(storage, record.serialize())) is None


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b'{"metadata": 3, "result": "{}"}', b"\xff\x00", b"[" * 100_000])
def test_what_is_no_record_at_all_is_none(content, storage):
    assert read_manifest(stored(storage, content)) is None


def test_a_manifest_comes_back_through_prefects_record(storage):
    record = ResultRecord(result=MANIFEST, metadata=ResultRecordMetadata(serializer=ManifestSerializer()))
    path = Path(storage.write_path("check/a/1-digest", record.serialize()))
    assert read_manifest(path) == MANIFEST
    assert ResultRecord.deserialize(storage.read_path("check/a/1-digest")).result == MANIFEST


@pytest.mark.parametrize("key", ["../outside", "check/../../outside", "/tmp/outside"])
def test_a_key_leads_nowhere_else(key, storage):
    with pytest.raises(ValueError, match="is no name of a record"):
        storage.write_path(key, b"x")
    with pytest.raises(ValueError, match="is no name of a record"):
        storage.read_path(key)


def test_a_link_in_the_place_of_a_record_is_replaced_and_not_followed(storage, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    path = stored(storage, b"")
    path.unlink()
    path.symlink_to(precious)
    storage.write_path("check/a/1-digest", b"record")
    assert precious.read_text() == "mine"
    assert path.read_bytes() == b"record"


def test_figures_leave_no_garbage():
    gc.disable()
    try:
        figure = Figure()
        figure.add_subplot()
        drawn = weakref.ref(figure)
        del figure
        assert Manifest.of([]) == Manifest()
        assert drawn() is not None  # it refers to itself
        assert Manifest.of_figures([]) == Manifest()
        assert drawn() is None
    finally:
        gc.enable()


def test_of_an_exception_the_message_is_kept():
    assert json.loads(ManifestSerializer().dumps(InputError("no such tile"))) == {"error": "no such tile"}
    with pytest.raises(TypeError, match="a stage remembers a Manifest, not int"):
        ManifestSerializer().dumps(3)
