"""Plans in force beside what their surrogates were taught: nothing is asked for twice, and it helps."""

import json
from dataclasses import replace

import pytest

from models.dataset import Design
from models.generation import generate
from service.client import Client
from service.context import build_context
from service.errors import InvalidRequestError
from service.factory import build_services
from service.schemas.versions import SurrogateSchema
from service.services.jobs import record_of
from service.services.measuring import MeasuringTarget
from service.services.recalibration_request import RecalibrationRequest
from service.steps import survey
from service.storage.connection import connect
from service.storage.coverage import keep_coverage
from service.storage.embedded import store_url
from service.storage.files import FileExchange
from service.storage.jobs import TRAIN_QUEUE, job_queue
from service.storage.refreshes import REFRESHES, TURN_MS
from service.storage.versions import VersionStore
from tests.integration.conftest import make_settings
from tests.support.steps_by_hand import StepsByHand
from twin.calibration import load_calibration, shipped_calibration_ids

CALIBRATION_ID = shipped_calibration_ids()[0]
PERIOD_S = 3600.0


def workload(num_adapters=40, **changes):
    """What one GPU serves: by default as most fleets are."""
    gpu_type, base_model, _ = CALIBRATION_ID.split("/")
    given = {"rank": 16, "rate_rps": 0.02, "input_tokens_mean": 223, "output_tokens_mean": 197} | changes
    adapters = [{"id": f"customer-{row}", **given} for row in range(num_adapters)]
    return json.dumps({"base_model": base_model, "gpu_type": gpu_type, "adapters": adapters}).encode()


TYPICAL = workload()
SHORT = workload(output_tokens_mean=10)
"""Answers are shorter than any that a shipped surrogate was taught."""


@pytest.fixture(scope="module")
def shipped_coverage(store_dir, tmp_path_factory):
    """Where the shipped surrogate was taught, as a worker tells it."""
    with connect(make_settings(store_dir.parent, store_timeout_s=10.0)) as client:
        versions = VersionStore(FileExchange(tmp_path_factory.mktemp("shipped"), client))
        shipped = [one for one in versions.versions() if one.is_shipped]
        (version,) = [one for one in shipped if one.manifest.calibration_id == CALIBRATION_ID]
        return survey.survey(version, versions)


class Site:
    """Services of one process, and the steps of one worker, on one data directory."""

    def __init__(self):
        self.steps = StepsByHand()
        self.context = build_context(self.steps.settings)
        self.services = build_services(self.context)

    @property
    def refresh(self):
        return self.services.refresh

    def plan(self, document):
        return self.services.placements.plan(document)

    def look(self, document):
        state = self.refresh.look(self.plan(document))
        if state.job_id is not None:
            self.steps.jobs.append(state.job_id)
        return state

    def close(self):
        self.steps.close()
        self.context.close()


@pytest.fixture
def site(store_dir, tmp_path, monkeypatch, shipped_coverage, redis_client):
    """Begin as a process with these settings; what was seen before is forgotten."""
    sites = []

    def begin(*, is_surveyed=True, **settings):
        given = {
            "refresh_recalibrates": "true",
            "refresh_period_s": PERIOD_S,
            "store_timeout_s": 10,
        } | settings
        monkeypatch.setenv("LOADMASTER_REDIS_URL", store_url(store_dir))
        monkeypatch.setenv("LOADMASTER_DATA_DIR", str(tmp_path))
        for name, value in given.items():
            monkeypatch.setenv(f"LOADMASTER_{name.upper()}", str(value))
        sites.append(Site())
        version = sites[-1].context.catalog.targets[CALIBRATION_ID].surrogate.version
        if is_surveyed:
            keep_coverage(sites[-1].context.files, CALIBRATION_ID, version, shipped_coverage)
        return sites[-1]

    forget(redis_client)
    yield begin
    for one in sites:
        one.close()
    forget(redis_client)


def forget(client):
    names = [*client.scan_iter(f"{REFRESHES}*"), *client.scan_iter("loadmaster:{files}*coverage*")]
    names += client.scan_iter("loadmaster:{activations}*")
    if names:
        client.delete(*names)


def test_a_workload_within_the_range_and_well_sampled_asks_for_nothing(site):
    state = site().look(TYPICAL)
    assert (state.num_out_of_range, state.num_thin, state.live) == (0, 0, None)
    assert (state.job_id, state.proposal) == (None, "")


def test_a_plan_names_what_leaves_the_range(site):
    here = site()
    assert here.plan(TYPICAL).placement.gpus[0].predicted.out_of_range == ()
    assert "output_tokens" in here.plan(SHORT).placement.gpus[0].predicted.out_of_range


def test_a_workload_out_of_range_asks_once(site):
    here = site()
    first = here.look(SHORT)
    job = here.steps.service.get(first.job_id)
    assert job.stage == "simulating"
    assert record_of(job).reason.startswith("refresh: GPUs out of the trained range: 1 of 1 (")
    assert "output_tokens" in job.reason
    assert [stage.stage for stage in job.stages] == ["requested", "simulating"]
    assert here.look(SHORT).job_id == job.job_id
    here.steps.service.cancel(job.job_id)
    assert here.look(SHORT).job_id == job.job_id
    assert len([one for one in here.steps.service.latest(100) if one.actor == "refresh"]) == 1


def test_what_was_asked_for_is_not_asked_again_once_a_worker_told_where_it_was_taught(site, shipped_coverage):
    here = site(is_surveyed=False)
    first = here.look(SHORT)
    here.steps.service.cancel(first.job_id)
    keep_coverage(here.context.files, CALIBRATION_ID, first.surrogate_version, shipped_coverage)
    again = here.look(SHORT)
    assert (again.job_id, again.num_out_of_range, again.num_thin) == (first.job_id, 1, 0)


def test_without_leave_to_recalibrate_it_is_proposed(site):
    here = site(refresh_recalibrates="false")
    for _ in range(2):
        state = here.look(SHORT)
        assert (state.job_id, "POST /recalibrate" in state.proposal) == (None, True)
    assert here.refresh.known() == (state,)
    assert here.look(TYPICAL).proposal == ""


def test_no_name_of_an_adapter_is_kept(site, redis_client, tmp_path):
    here = site()
    here.look(SHORT)
    kept = b"".join(redis_client.hvals(REFRESHES))
    kept += b"".join(path.read_bytes() for path in (tmp_path / "live").rglob("*.json"))
    assert b'"classes"' in kept
    assert b"customer" not in kept


def test_few_gpus_with_few_runs_near_them_wait_until_there_are_more(site):
    here = site()
    lonely = [
        workload(3, rate_rps=0.05 + 0.001 * number, input_tokens_mean=20, output_tokens_mean=2000)
        for number in range(8)
    ]
    for number, document in enumerate(lonely, 1):
        state = here.look(document)
        assert (state.num_out_of_range, state.num_thin) == (0, 1), "this workload is to be thin"
        assert (state.job_id is None) == (number < 8)
    assert len(state.live.servers) == 8
    assert "few twin runs" in here.steps.service.get(state.job_id).reason


def test_while_another_recalibration_is_under_way_nothing_is_begun(site):
    here = site()
    gpu_type, base_model, engine_version = CALIBRATION_ID.split("/")
    target = MeasuringTarget(base_model=base_model, gpu_type=gpu_type, engine_version=engine_version)
    job = here.steps.service.submit(RecalibrationRequest(target=target), actor="test")
    here.steps.jobs.append(job.job_id)
    state = here.look(SHORT)
    assert state.job_id is None
    assert job.job_id in state.proposal
    here.steps.service.cancel(job.job_id)
    assert here.look(SHORT).job_id is not None


def test_one_process_looks_and_not_again_within_the_period(site, redis_client):
    one, other = site(), site()
    plans = [one.plan(TYPICAL)]
    one.refresh.tick(plans)
    (first,) = one.refresh.known()
    other.refresh.tick(plans)
    one.refresh.tick(plans)
    assert other.refresh.known() == (first,)
    (key,) = redis_client.scan_iter(f"{REFRESHES}:turn:*")
    assert 1000 * PERIOD_S - 600_000 < redis_client.pttl(key) <= 1000 * PERIOD_S
    off = site(refresh_period_s=0)
    redis_client.delete(key)
    off.refresh.tick(plans)
    assert not redis_client.exists(key)


def test_where_nobody_told_where_it_was_taught_a_worker_is_asked_and_the_look_is_soon_repeated(
    site, redis_client
):
    here = site(is_surveyed=False)
    plan = here.plan(TYPICAL)
    here.refresh.tick([plan])
    (state,) = here.refresh.known()
    assert (state.num_thin, state.num_out_of_range) == (None, 0)
    (key,) = redis_client.scan_iter(f"{REFRESHES}:turn:*")
    assert redis_client.pttl(key) <= TURN_MS
    queue = job_queue(TRAIN_QUEUE, redis_client, here.steps.settings)
    name = f"survey-{plan.problem.surrogate.version}"
    assert name in queue.get_job_ids()
    step = queue.fetch_job(name)
    survey.run(*step.args)
    step.delete()
    assert here.look(TYPICAL).num_thin == 0


def test_what_a_refresh_cannot_be_asked_with_is_named(site):
    here = site()
    gpu_type, base_model, engine_version = CALIBRATION_ID.split("/")
    target = MeasuringTarget(base_model=base_model, gpu_type=gpu_type, engine_version=engine_version)
    asked = RecalibrationRequest(target=target)
    for wrong, field in (
        (replace(asked, measurement_set="0" * 24), "measurement_set"),
        (replace(asked, target=replace(target, engine_version="vllm-9")), "engine_version"),
    ):
        with pytest.raises(InvalidRequestError) as refused:
            here.refresh.ask(here.plan(TYPICAL), wrong, actor="test")
        assert refused.value.field == field
    job = here.refresh.ask(here.plan(TYPICAL), replace(asked, num_rows=64), actor="test")
    here.steps.jobs.append(job.job_id)
    assert (job.stage, job.num_rows, job.actor) == ("simulating", 64, "test")


def test_a_refresh_that_was_cancelled_amid_its_batches_goes_on_to_the_same_data_set(site):
    here = site(recalibration_rows=64, rows_a_batch=32)
    job_id = here.look(SHORT).job_id
    here.steps.gather(job_id)
    assert here.steps.one_batch(job_id)
    here.steps.service.cancel(job_id)
    here.steps.service.retry(job_id)
    made = here.steps.simulate(job_id)
    live = here.refresh.known()[0].live
    calibration = load_calibration(CALIBRATION_ID)
    alone = generate(calibration, Design(num_rows=64, live=live), num_workers=1)
    assert (made["sha256"], made["rows"]) == (alone.sha256, 64 + live.num_rows)
    assert made["live_rows"] == live.num_rows


def test_a_published_refresh_knows_what_runs_and_is_not_asked_for_again(site):
    here = site(recalibration_rows=160, gate_slack=1000)
    before = here.look(SHORT)
    job = here.steps.publish(before.job_id)
    assert job.stage == "published", job.report["verdict"]["reason"]
    assert job.report["verdict"]["checks"]
    here.services.versions.refresh()
    plan = here.plan(SHORT)
    assert plan.problem.surrogate.version == job.surrogate_version
    assert [gpu.predicted.out_of_range for gpu in plan.placement.gpus] == [()]
    survey.run({"calibration_id": CALIBRATION_ID, "surrogate_version": job.surrogate_version})
    after = here.look(SHORT)
    assert (after.num_out_of_range, after.num_thin, after.job_id) == (0, 0, None)
    listed = {one.version.name: one for one in here.services.versions.listing()}
    told = SurrogateSchema.from_listed(listed[job.surrogate_version]).lineage
    assert (told.live_servers, told.job_id) == (before.live.digest, job.job_id)
    version = here.context.versions.version(CALIBRATION_ID, job.surrogate_version)
    assert here.context.versions.live_servers(version) == before.live
    assert not (here.steps.settings.data_dir / job.live_servers).exists()


def test_a_refresh_is_asked_for_and_told_over_http(fleet):
    client, body = fleet.client(), json.loads(SHORT)
    asked = {name: body[name] for name in ("base_model", "gpu_type")} | {"refresh": True}
    answer = client.post("/recalibrate", json=asked)
    assert (answer.status_code, answer.json()["code"]) == (503, "no_plan")
    assert client.put("/workload", json=body).status_code == 200
    assert "loadmaster_plan_out_of_range_gpus" in client.get("/metrics").text
    assert client.get("/refreshes").json() == {"refreshes": []}
    refused = client.post("/recalibrate", json=asked | {"engine_version": "vllm-9"})
    assert (refused.status_code, refused.json()["field"]) == (422, "engine_version")
    answer = client.post("/recalibrate", json=asked | {"num_rows": 64})
    assert answer.status_code == 202, answer.text
    job = client.get(answer.headers["location"]).json()
    assert (job["stage"], job["reason"]) == ("simulating", "refresh by request; live servers: 1")
    assert client.post("/recalibrate", json=asked | {"num_rows": 64}).json()["job_id"] == job["job_id"]
    ordinary = {name: value for name, value in asked.items() if name != "refresh"}
    assert client.post("/recalibrate", json=ordinary).status_code == 409
    (told,) = client.get("/refreshes").json()["refreshes"]
    with Client(str(client.base_url)) as typed:
        assert typed.refreshes().refreshes[0].job_id == job["job_id"]
    assert (told["job_id"], told["num_live_servers"]) == (job["job_id"], 1)
