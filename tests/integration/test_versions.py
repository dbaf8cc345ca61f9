"""Surrogate versions: put in force, rolled back, followed by every process, refused when damaged."""

import sys
import threading

import pytest

from models.artifact import shipped_directory
from service.cli import run_command_line
from service.drill.variants import changed, publish_changed
from service.process import stop
from service.services.catalog import Catalog, Target
from service.storage.connection import connect
from service.storage.embedded import start_store, store_url
from service.storage.files import FileExchange
from service.storage.versions import Lineage, VersionStore
from tests.integration.conftest import RunningApp, make_settings
from tests.support.waiting import wait_until
from tests.support.workload_documents import LLAMA_CALIBRATION, workload_document
from twin.calibration import load_calibration

FOLLOWED_S = 10.0


@pytest.fixture(scope="module")
def own_store(tmp_path_factory):
    """A store whose pointers no other test moves."""
    directory = tmp_path_factory.mktemp("versions") / "store"
    process = start_store(directory)
    yield store_url(directory)
    stop(process, 20)


@pytest.fixture
def redis_client(own_store):
    client = connect(make_settings("unused").model_copy(update={"redis_url": own_store}))
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def run_app(own_store):
    running = []

    def run(data_dir, *, redis_url=own_store):
        settings = make_settings(data_dir, store_timeout_s=5.0).model_copy(update={"redis_url": redis_url})
        running.append(RunningApp(settings))
        return running[-1].client

    yield run
    for app in running:
        app.close()


def publish(data_dir, client, number=1):
    return publish_changed(VersionStore(FileExchange(data_dir, client)), LLAMA_CALIBRATION, number).name


def planned_with(client):
    return client.post("/place", json=workload_document(8)).json()["surrogate_version"]


def listed(client, version):
    rows = client.get("/surrogates").json()["surrogates"]
    return next(row for row in rows if row["surrogate_version"] == version)


def activate(client, version):
    answer = client.post(f"/surrogates/{version}/activate")
    assert answer.status_code == 200, answer.text
    return answer.json()


def roll_back(client):
    return client.post("/surrogates/roll-back", json={"calibration_id": LLAMA_CALIBRATION})


def test_a_version_put_in_force_plans_and_rolling_back_returns_to_the_one_before(
    run_app, redis_client, tmp_path
):
    client = run_app(tmp_path / "here")
    shipped = planned_with(client)
    first, second = (publish(tmp_path / "here", redis_client, number) for number in (1, 2))
    for version in (first, second, second):
        assert activate(client, version)["active"]
        assert planned_with(client) == version
        assert [listed(client, name)["active"] for name in (shipped, first, second)] == [
            name == version for name in (shipped, first, second)
        ]
    for before in (first, shipped):
        assert roll_back(client).json()["surrogate_version"] == before
        assert planned_with(client) == before
    assert roll_back(client).status_code == 409
    row = listed(client, first)
    assert (row["source"], row["lineage"]["job_id"]) == ("published", "job-1")
    assert listed(client, shipped)["source"] == "shipped"
    calibrations = client.get("/calibrations").json()["calibrations"]
    assert {version for one in calibrations for version in one["surrogate_versions"]} >= {
        shipped,
        first,
        second,
    }


def test_a_process_with_another_data_directory_follows_and_plans_its_workload_anew(
    run_app, redis_client, tmp_path
):
    here, there = run_app(tmp_path / "here"), run_app(tmp_path / "there")
    there.put("/workload", json=workload_document(8))
    version = publish(tmp_path / "here", redis_client)
    activate(here, version)
    wait_until(lambda: planned_with(there) == version, timeout_s=FOLLOWED_S, what="following")
    wait_until(
        lambda: there.get("/plan").json()["surrogate_version"] == version,
        timeout_s=FOLLOWED_S,
        what="a new plan for the workload in force",
    )
    assert (tmp_path / "there" / "surrogates" / LLAMA_CALIBRATION / version).is_dir()


def test_a_service_whose_store_is_down_starts_with_what_it_knew_last(run_app, redis_client, tmp_path):
    version = publish(tmp_path / "here", redis_client)
    activate(run_app(tmp_path / "here"), version)
    alone = run_app(tmp_path / "here", redis_url=store_url(tmp_path / "nothing"))
    assert planned_with(alone) == version
    assert listed(alone, version)["active"]
    assert roll_back(alone).status_code == 503
    assert planned_with(alone) == version


def test_a_damaged_version_is_refused_and_told_and_what_was_in_force_stays(run_app, redis_client, tmp_path):
    here, there = run_app(tmp_path / "here"), run_app(tmp_path / "there")
    shipped = planned_with(there)
    version = publish(tmp_path / "here", redis_client)
    key = f"loadmaster:{{files}}:surrogates/{LLAMA_CALIBRATION}/{version}"
    (trees,) = [name for name in redis_client.hkeys(key) if name.startswith(b"trees")]
    content = bytearray(redis_client.hget(key, trees))
    content[-4000] ^= 0xFF
    redis_client.hset(key, trees, bytes(content))
    activate(here, version)
    wait_until(lambda: listed(there, version)["refused"], timeout_s=FOLLOWED_S, what="the refusal")
    assert planned_with(there) == shipped
    assert "loadmaster_refused_versions_total 1.0" in there.get("/metrics").text
    assert there.post(f"/surrogates/{version}/activate").status_code == 409
    roll_back(here)
    wait_until(lambda: not listed(there, version)["refused"], timeout_s=FOLLOWED_S, what="the roll-back")


def test_the_command_line_acts_without_a_service_and_the_store_is_brought_up_to_it(
    run_app, redis_client, tmp_path, monkeypatch, capsys
):
    version = publish(tmp_path / "here", redis_client)
    redis_client.flushall()  # a store that knows nothing of it
    monkeypatch.setenv("LOADMASTER_DATA_DIR", str(tmp_path / "here"))
    monkeypatch.delenv("LOADMASTER_REDIS_URL", raising=False)
    assert run_command_line(["surrogates", "activate", version, "--json"]) == 0
    assert f'"surrogate_version":"{version}"' in capsys.readouterr().out
    assert planned_with(run_app(tmp_path / "here")) == version
    there = run_app(tmp_path / "there")
    wait_until(lambda: planned_with(there) == version, timeout_s=FOLLOWED_S, what="the store's knowledge")
    assert run_command_line(["surrogates", "activate", "0" * 12]) == 2
    assert "surrogate_version" in capsys.readouterr().err


def test_the_shipped_trees_made_again_are_one_version(run_app, redis_client, tmp_path):
    client = run_app(tmp_path / "here")
    shipped = planned_with(client)
    versions = VersionStore(FileExchange(tmp_path / "here", redis_client))
    directory = shipped_directory(LLAMA_CALIBRATION)
    made = versions.publish(directory, load_calibration(LLAMA_CALIBRATION), Lineage(job_id="again"))
    assert made.name == shipped
    rows = [row["surrogate_version"] for row in client.get("/surrogates").json()["surrogates"]]
    assert rows.count(shipped) == 1
    assert activate(client, shipped)["source"] == "shipped"


@pytest.mark.parametrize(("path", "status"), [("0" * 12, 404), ("..%2F..%2Fetc", 404), ("SHOUT", 422)])
def test_a_version_that_is_not_there_is_told(client, path, status):
    assert client.post(f"/surrogates/{path}/activate").status_code == status


def test_a_calibration_that_is_not_there_cannot_be_rolled_back(client):
    answer = client.post("/surrogates/roll-back", json={"calibration_id": "no/such/one"})
    assert (answer.status_code, answer.json()["field"]) == (404, "calibration_id")


def test_a_request_sees_a_calibration_and_the_surrogate_trained_on_it_never_a_mixture():
    pairs = [
        Target(calibration=calibration, surrogate=surrogate)
        for calibration, surrogate in (changed(LLAMA_CALIBRATION, number) for number in (1, 2))
    ]
    catalog = Catalog(targets={LLAMA_CALIBRATION: pairs[0]})
    done = threading.Event()

    def exchange():
        while not done.is_set():
            for pair in pairs:
                catalog.adopt(pair)

    thread = threading.Thread(target=exchange)
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        seen = set()
        for _ in range(20_000):
            found = catalog.find(gpu_type="h100-64gb", base_model="llama-3.1-8b-instruct")
            seen.add((found.calibration.load.cpu_ms, found.surrogate.version))
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval_s)
    assert seen <= {(pair.calibration.load.cpu_ms, pair.surrogate.version) for pair in pairs}
