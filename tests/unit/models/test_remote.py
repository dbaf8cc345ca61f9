import resource
import sys
from datetime import UTC, datetime

import numpy as np
import pytest

from models.dataset import COLUMNS, Dataset, DatasetOrigin, Design
from models.dataset_files import num_bytes, read_parquet, write_parquet
from models.errors import DatasetError, RemoteError
from models.remote import folders_with, is_url, local_copy, remove_folder, require_protocol, shown, upload

fsspec = pytest.importorskip("fsspec", reason="fsspec is of the remote extra")
pytest.importorskip("pyarrow", reason="pyarrow is of the train extra")

DATASET = Dataset(
    origin=DatasetOrigin(
        calibration_id="g/m/e", calibration_sha256="c", twin_version="t", design=Design(num_rows=3)
    ),
    columns=np.arange(3.0 * len(COLUMNS)).reshape(3, len(COLUMNS)),
)


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    """A folder that is not there yet."""
    if request.param == "file":
        return f"file://{tmp_path}/remote/here"
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    return "memory://bucket/here"


def names(url):
    fs, path = fsspec.core.url_to_fs(url)
    return sorted(entry.rpartition("/")[2] for entry in fs.ls(path, detail=False))


def test_a_data_set_at_a_url_is_the_one_that_was_written_byte_for_byte(url, tmp_path):
    write_parquet(DATASET, f"{url}/one.parquet")
    write_parquet(DATASET, tmp_path / "two.parquet")
    assert read_parquet(f"{url}/one.parquet").sha256 == DATASET.sha256
    with local_copy(f"{url}/one.parquet") as copy:
        assert copy.read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert not copy.exists()
    assert num_bytes(f"{url}/one.parquet") == num_bytes(tmp_path / "two.parquet")


def test_a_file_is_exchanged_whole_and_nothing_stays_beside_it(url, tmp_path):
    for content in (b"first", b"second"):
        (tmp_path / "f").write_bytes(content)
        upload(tmp_path / "f", f"{url}/f")
        with local_copy(f"{url}/f") as copy:
            assert copy.read_bytes() == content
    assert names(url) == ["f"]


def test_what_cannot_be_put_in_place_leaves_what_was_there_and_names_the_url(tmp_path):
    (tmp_path / "f").write_bytes(b"content")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "f").mkdir()  # a file cannot take the place of a folder that holds something
    (tmp_path / "folder" / "f" / "f").mkdir()
    url = f"file://{tmp_path}/folder/f"
    (tmp_path / "blocked").write_bytes(b"")
    with pytest.raises(RemoteError, match="blocked/f"):
        upload(tmp_path / "f", f"file://{tmp_path}/blocked/f")
    with pytest.raises(RemoteError, match=url):
        upload(tmp_path / "absent", url)
    assert names(f"file://{tmp_path}/folder") == ["f"]


def test_a_disk_that_fills_up_halfway_leaves_what_was_there(tmp_path):
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "new").write_bytes(bytes(2**20))
    url = f"file://{tmp_path}/remote/f"
    upload(tmp_path / "old", url)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        with pytest.raises(RemoteError, match="too large"):
            upload(tmp_path / "new", url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "remote" / "f").read_bytes() == b"old"
    assert names(f"file://{tmp_path}/remote") == ["f"]


def test_a_file_that_is_not_there_is_told_by_its_url(url):
    with pytest.raises(RemoteError, match="absent"):
        read_parquet(f"{url}/absent.parquet")
    with pytest.raises(RemoteError, match="absent"):
        num_bytes(f"{url}/absent.parquet")


def test_a_file_at_a_url_that_is_no_data_set_is_told_by_its_url(url, tmp_path):
    (tmp_path / "f").write_bytes(b"PAR1 but not really")
    upload(tmp_path / "f", f"{url}/f")
    with pytest.raises(DatasetError, match=f"{url}/f"):
        read_parquet(f"{url}/f")


def test_folders_come_with_the_newest_file_first_and_go_with_all_that_is_in_them(url, tmp_path):
    (tmp_path / "f").write_bytes(b"content")
    assert folders_with("f", url) == []
    for name in ("b", "a", "c"):
        upload(tmp_path / "f", f"{url}/{name}/f")
    upload(tmp_path / "f", f"{url}/without/other")
    fs, path = fsspec.core.url_to_fs(url)
    written = {name: fs.modified(f"{path}/{name}/f") for name in ("a", "b", "c")}
    assert folders_with("f", url) == sorted(written, key=written.__getitem__, reverse=True)
    assert all(isinstance(at, datetime) and at.tzinfo == UTC for at in written.values())
    remove_folder(f"{url}/b")
    remove_folder(f"{url}/b")
    assert sorted(folders_with("f", url)) == ["a", "c"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3:/bucket/x", "is no URL"),
        ("s3://", "is no URL"),
        ("://bucket", "is no URL"),
        ("carrier-pigeon://bucket/x", "Protocol not known"),
    ],
)
def test_what_is_no_url_or_of_no_known_protocol_is_told(url, reason):
    with pytest.raises(RemoteError, match=reason):
        require_protocol(url)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(RemoteError, match="gcsfs"):
        require_protocol("gs://bucket/x")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(RemoteError, match=r"loadmaster\[remote\]"):
        require_protocol("file:///x")


def test_user_and_password_are_not_shown():
    assert shown("ftp://me:secret@host/x") == "ftp://***@host/x"
    assert shown("s3://bucket/a@b") == "s3://bucket/a@b"
    with pytest.raises(RemoteError) as told:
        require_protocol("carrier-pigeon://me:secret@host/x")
    assert "secret" not in str(told.value)


def test_a_path_is_no_url(tmp_path):
    assert is_url("s3://bucket/x")
    assert not is_url("bucket/x")
    assert not is_url(tmp_path)
