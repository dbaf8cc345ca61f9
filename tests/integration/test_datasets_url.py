"""Complete data sets at an fsspec URL: landed whole, fetched by other hosts, forgotten when old."""

import pytest

from models.dataset_files import read_parquet
from models.errors import DatasetError, RemoteError
from service.errors import UsageError
from service.settings import Settings
from service.steps.bench import bench
from service.storage.datasets import RemoteDatasets, require_datasets_url
from service.storage.embedded import store_url
from tests.support.steps_by_hand import StepsByHand

pytest.importorskip("fsspec", reason="fsspec is of the remote extra")

NUM_ROWS = 8


@pytest.fixture
def host(store_dir, monkeypatch):
    """Begin as a host with this data directory and URL; None has no URL."""
    hosts = []

    def begin(data_dir, url=None):
        monkeypatch.setenv("LOADMASTER_REDIS_URL", store_url(store_dir))
        monkeypatch.setenv("LOADMASTER_STORE_TIMEOUT_S", "10")
        monkeypatch.setenv("LOADMASTER_DATA_DIR", str(data_dir))
        monkeypatch.setenv("LOADMASTER_KEPT_DATASETS", "1")
        monkeypatch.delenv("LOADMASTER_DATASETS_URL", raising=False)
        if url is not None:
            monkeypatch.setenv("LOADMASTER_DATASETS_URL", url)
        hosts.append(StepsByHand())
        return hosts[-1]

    yield begin
    for one in hosts:
        one.close()


def test_a_store_that_fails_loses_nothing_and_the_set_lands_once_it_works(host, tmp_path):
    remote = tmp_path / "remote"
    here = host(tmp_path / "here", f"file://{remote}/")
    job_id = here.fitted(NUM_ROWS)
    remote.write_bytes(b"")  # a file where the folder is to be
    with pytest.raises(RemoteError, match="LOADMASTER_DATASETS_URL"):
        here.simulate(job_id)
    assert here.service.get(job_id).stage == "simulating"
    remote.unlink()
    made = here.gather(job_id)
    path = remote / made["name"] / "dataset.parquet"
    assert read_parquet(path).sha256 == made["sha256"]
    assert [one.name for one in path.parent.iterdir()] == ["dataset.parquet"]
    assert here.service.get(job_id).stage == "training"
    assert not (tmp_path / "here" / made["name"]).exists()
    assert not here.client.exists(f"loadmaster:{{files}}:{made['name']}")


def test_a_url_changes_where_a_set_is_and_not_a_byte_of_it(host, tmp_path):
    with_url = host(tmp_path / "here", f"file://{tmp_path}/remote")
    job_id = with_url.fitted(NUM_ROWS)
    there = with_url.simulate(job_id)
    with_url.service.cancel(job_id)
    without = host(tmp_path / "elsewhere")
    here = without.simulate(without.fitted(NUM_ROWS))
    assert here == there
    one, other = (tmp_path / root / here["name"] / "dataset.parquet" for root in ("remote", "elsewhere"))
    assert one.read_bytes() == other.read_bytes()


def test_another_host_takes_a_set_from_the_url_and_refuses_another_in_its_place(host, tmp_path):
    url = f"file://{tmp_path}/remote"
    job_id = (first := host(tmp_path / "here", url)).fitted(NUM_ROWS)
    made = first.simulate(job_id)
    host(tmp_path / "other", url)
    with bench({"job_id": job_id, "generation": 0}) as there:
        assert there.dataset().sha256 == made["sha256"]
        assert not (tmp_path / "other" / "datasets").exists()
    path = tmp_path / "remote" / made["name"] / "dataset.parquet"
    first.service.cancel(job_id)
    other = first.simulate(first.fitted(NUM_ROWS, seed=1))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((tmp_path / "remote" / other["name"] / "dataset.parquet").read_bytes())
    first.service.cancel(first.jobs[-1])
    again = host(tmp_path / "other", url)
    again.service.retry(job_id)
    with (
        bench({"job_id": job_id, "generation": 1}) as there,
        pytest.raises(DatasetError, match="holds another data set"),
    ):
        there.dataset()
    again.service.cancel(job_id)


def test_only_the_newest_sets_stay_at_the_url(host, tmp_path):
    here = host(tmp_path / "here", f"file://{tmp_path}/remote")
    names = []
    for seed in (0, 1):
        names.append(here.simulate(here.fitted(NUM_ROWS, seed))["name"])
        here.service.cancel(here.jobs[-1])
    folder = names[0].rpartition("/")[0]
    assert RemoteDatasets(f"file://{tmp_path}/remote").newest_first(folder) == names[1:]


@pytest.mark.parametrize("url", ["carrier-pigeon://bucket/x", "smb-not-installed://host/x"])
def test_a_url_that_nothing_here_can_open_is_refused_by_the_settings_name(url):
    with pytest.raises(UsageError, match="LOADMASTER_DATASETS_URL"):
        require_datasets_url(Settings(datasets_url=url))
    require_datasets_url(Settings(datasets_url=None))
    require_datasets_url(Settings(datasets_url="memory://x"))


@pytest.mark.parametrize("url", ["bucket/x", "s3:/bucket", "://x", "s3://"])
def test_a_setting_that_is_no_url_is_refused(url):
    with pytest.raises(ValueError, match="datasets_url"):
        Settings(datasets_url=url)
