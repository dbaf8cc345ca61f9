"""Agents over HTTP: leases, points that are kept once, measurement sets, drift."""

from contextlib import closing

import pytest

from service.agent.link import Link, SpooledSink
from service.agent.settings import AgentSettings
from service.client import ProblemError
from service.process import stop
from service.services.agents import AgentMeasuring
from service.services.clock import Clock
from service.services.measuring import MeasuringTarget
from service.storage.agents import AgentStore
from service.storage.connection import connect
from service.storage.embedded import start_store
from tests.integration.conftest import RunningApp, make_settings
from tests.support.agent_sets import KNOWN, MODEL, manifest, points_of
from tests.support.live_samples import as_predicted
from twin.measurement_set import manifest_to_json

TARGET = MeasuringTarget(base_model=MODEL, gpu_type="cpu", engine_version="vllm-0.32.0")
LLAMA = "h100-64gb/llama-3.1-8b-instruct/vllm-0.8.5"
DAY_S = 86_400
LEASE_S = 30.0
POINTS = [{"key": point.key, "table": point.table, "row": dict(point.row)} for point in points_of(KNOWN)]


class Site:
    """An application on a store of its own, and who asks it to have something measured."""

    def __init__(self, directory, **changes):
        self.now_s = 1e9
        clock = Clock(monotonic_s=lambda: self.now_s, wall_s=lambda: self.now_s)
        settings = make_settings(directory, agent_lease_s=LEASE_S, **changes)
        self._app = RunningApp(settings, clock)
        self._redis = connect(settings)
        self.client = self._app.client
        self.measuring = AgentMeasuring(AgentStore(self._redis), settings, clock)

    def close(self):
        self._app.close()
        self._redis.close()

    def register(self, agent_id="agent-1", **changes):
        known = {
            "agent_id": agent_id,
            "gpu_type": "cpu",
            "engine_version": "vllm-0.32.0",
            "base_models": [MODEL],
            "memory_bytes": 2**30,
        }
        return self.client.post("/agents", json=known | changes)

    def take(self, agent_id="agent-1"):
        return self.client.post(f"/agents/{agent_id}/work").json()["work"]

    def beat(self, agent_id="agent-1", **told):
        return self.client.post(f"/agents/{agent_id}/heartbeat", json=told).json()

    def report(self, points, agent_id="agent-1", job_id="job-1"):
        body = {"agent_id": agent_id, "job_id": job_id, "points": points}
        return self.client.post("/measurements", json=body)

    def end(self, state, agent_id="agent-1", job_id="job-1", **told):
        return self.client.post(f"/agents/{agent_id}/work/{job_id}", json={"state": state} | told)


@pytest.fixture
def site(tmp_path):
    store = start_store(tmp_path / "store")
    site = Site(tmp_path)
    yield site
    site.close()
    stop(store, 20)


def test_an_agent_that_has_not_registered_is_told_to(site):
    assert site.client.post("/agents/agent-1/work").status_code == 404
    assert site.client.post("/agents/agent-1/heartbeat", json={}).status_code == 404


def test_agents_are_listed_with_what_they_do_and_when_they_fell_silent(site):
    site.register()
    site.measuring.ask("job-1", TARGET)
    site.take()
    (agent,) = site.client.get("/agents").json()["agents"]
    assert (agent["state"], agent["task"]["job_id"]) == ("measuring", "job-1")
    site.now_s += LEASE_S + 1
    (agent,) = site.client.get("/agents").json()["agents"]
    assert (agent["state"], agent["task"]) == ("silent", None)


def test_an_agent_that_measures_is_not_forgotten_another_one_is(site):
    site.register()
    site.measuring.ask("job-1", TARGET)
    site.take()
    assert site.client.delete("/agents/agent-1").status_code == 409
    site.register("agent-2")
    assert site.client.delete("/agents/agent-2").status_code == 204
    assert len(site.client.get("/agents").json()["agents"]) == 1


@pytest.mark.parametrize(
    "changes", [{"gpu_type": "h100-64gb"}, {"base_models": ["another"]}, {"engine_version": "vllm-0.31.0"}]
)
def test_work_goes_to_agents_with_the_gpu_the_model_and_the_engine_that_it_is_about(site, changes):
    site.measuring.ask("job-1", TARGET)
    site.register("agent-1", **changes)
    assert site.take() is None
    assert "no agent" in site.measuring.outcome("job-1").reason
    site.register("agent-2")
    assert site.take("agent-2")["job_id"] == "job-1"


def test_an_agent_never_holds_two_tasks_and_asking_again_answers_the_one_it_holds(site):
    site.register()
    for job_id in ("job-1", "job-2"):
        site.measuring.ask(job_id, TARGET)
        site.now_s += 1
    assert [site.take()["job_id"] for _ in range(3)] == ["job-1"] * 3


def test_a_task_is_one_agents_while_its_lease_lasts_and_then_anothers(site):
    site.register("agent-1")
    site.register("agent-2")
    site.measuring.ask("job-1", TARGET)
    site.take("agent-1")
    for _ in range(3):
        site.now_s += LEASE_S - 1
        assert site.beat("agent-1", job_id="job-1", progress=0.5)["keep"]
        assert site.take("agent-2") is None
    assert site.measuring.outcome("job-1").progress == 0.5
    site.now_s += LEASE_S + 1
    assert site.measuring.outcome("job-1").state == "waiting"
    assert site.take("agent-2")["job_id"] == "job-1"
    assert not site.beat("agent-1", job_id="job-1", progress=0.6)["keep"]


def test_a_lease_of_before_the_clock_went_back_is_over_unless_its_agent_is_heard_of(site):
    site.register("agent-1")
    site.register("agent-2")
    site.measuring.ask("job-1", TARGET)
    site.take("agent-1")
    site.now_s -= DAY_S
    assert {row["state"] for row in site.client.get("/agents").json()["agents"]} == {"silent"}
    assert site.beat("agent-1", job_id="job-1", progress=0.5)["keep"]
    assert site.take("agent-2") is None
    site.now_s -= DAY_S
    assert site.measuring.outcome("job-1").state == "waiting"
    assert site.take("agent-2")["job_id"] == "job-1"


def test_a_point_reported_again_is_kept_once_as_it_was_first(site):
    site.register()
    site.measuring.ask("job-1", TARGET)
    site.take()
    first = POINTS[0]
    again = first | {"row": first["row"] | {"kv_tokens": 1}}
    assert site.report([first]).json() == {"added": 1, "known": 1}
    assert site.report([again, POINTS[1]]).json() == {"added": 1, "known": 2}
    known = site.client.get("/measurements/job-1").json()["points"]
    assert [point["row"] for point in known if point["key"] == first["key"]] == [first["row"]]


def test_points_survive_the_agent_that_measured_them(site):
    site.register("agent-1")
    site.register("agent-2")
    site.measuring.ask("job-1", TARGET)
    site.take("agent-1")
    site.report(POINTS[:5])
    site.now_s += LEASE_S + 1
    site.take("agent-2")
    assert len(site.client.get("/measurements/job-1").json()["points"]) == 5
    assert site.report(POINTS[5:7], agent_id="agent-1").json() == {"added": 2, "known": 7}


@pytest.mark.parametrize(
    ("point", "field"),
    [
        ({"key": "a", "table": "secrets.csv", "row": {}}, "points[0].table"),
        ({"key": "a", "table": "memory_kv.csv", "row": {"colour": 1}}, "points[0].row.colour"),
        ({"key": "", "table": "memory_kv.csv", "row": {}}, "points[0].key"),
    ],
)
def test_a_point_of_no_table_is_refused_by_field(site, point, field):
    site.register()
    site.measuring.ask("job-1", TARGET)
    answer = site.report([point])
    assert (answer.status_code, answer.json()["field"]) == (422, field)


def told(**changes):
    import json  # noqa: PLC0415

    return json.loads(manifest_to_json(manifest(**changes)))


def test_what_was_measured_becomes_a_set_with_its_manifest(site, tmp_path):
    site.register()
    site.measuring.ask("job-1", TARGET)
    site.take()
    site.report(POINTS)
    ended = site.end("measured", manifest=told(uncertain=["the border"]))
    assert ended.json()["state"] == "done"
    outcome = site.measuring.outcome("job-1")
    assert (outcome.state, outcome.set_id) == ("done", ended.json()["set_id"])
    directory = tmp_path / "measurements" / outcome.set_id
    assert sorted(path.name for path in directory.iterdir()) == [
        "load_times.csv",
        "manifest.json",
        "memory_kv.csv",
        "step_points.csv",
    ]
    assert site.end("measured", manifest=told()).json()["set_id"] == outcome.set_id
    assert site.take() is None
    assert site.report(POINTS[:1]).status_code == 409


def test_a_set_without_its_points_or_of_another_model_is_refused(site):
    site.register()
    site.measuring.ask("job-1", TARGET)
    site.take()
    assert site.end("measured", manifest=told()).json()["field"] == "points"
    site.report(POINTS)
    assert site.end("measured").json()["field"] == "manifest"
    assert site.end("measured", manifest=told(base_model="other")).json()["field"] == "manifest.base_model"
    assert site.end("measured", manifest={}).status_code == 422


def test_a_task_that_agents_fail_at_waits_for_another_try_and_fails_at_last(site):
    site.register()
    site.measuring.ask("job-1", TARGET)
    for _ in range(2):
        site.take()
        assert site.end("failed", reason="no server starts").json()["state"] == "waiting"
    assert "no server starts" in site.measuring.outcome("job-1").reason
    site.take()
    site.end("failed", reason="no server starts")
    assert site.measuring.outcome("job-1").state == "failed"


def test_a_task_given_back_is_as_it_was(site):
    site.register()
    site.measuring.ask("job-1", TARGET)
    site.take()
    site.report(POINTS[:2])
    assert site.end("returned", reason="it shuts down").json()["state"] == "waiting"
    assert site.take()["job_id"] == "job-1"
    assert len(site.client.get("/measurements/job-1").json()["points"]) == 2


def test_a_withdrawn_task_is_lost_to_its_agent_at_the_next_heartbeat(site):
    site.register()
    site.measuring.ask("job-1", TARGET)
    site.take()
    site.measuring.withdraw("job-1")
    assert not site.beat(job_id="job-1", progress=0.1)["keep"]
    assert site.end("failed", reason="x").status_code == 404
    assert site.measuring.outcome("job-1").state == "waiting"


def test_what_failed_and_was_withdrawn_may_be_asked_for_again(site):
    site.register()
    site.measuring.ask("job-1", TARGET)
    for _ in range(3):
        site.take()
        site.end("failed", reason="no server starts")
    site.measuring.ask("job-1", TARGET)
    assert site.measuring.outcome("job-1").state == "failed"
    site.measuring.withdraw("job-1")
    site.measuring.ask("job-1", TARGET)
    assert site.take()["job_id"] == "job-1"


def test_asking_twice_is_as_once(site):
    site.register()
    site.measuring.ask("job-1", TARGET)
    site.take()
    site.measuring.ask("job-1", TARGET)
    assert site.measuring.outcome("job-1").state == "measuring"


# --- What waits on an agent's disk.


@pytest.fixture
def link(site):
    with closing(Link(AgentSettings(url=str(site.client.base_url), agent_id="agent-1"))) as link:
        yield link


def test_a_point_that_the_service_did_not_take_is_not_forgotten_until_it_does(site, link, tmp_path):
    site.measuring.ask("job-1", TARGET)
    point = next(points_of(KNOWN))
    SpooledSink(link, "job-1", tmp_path / "spool").add(point)  # the agent is not known: refused
    sink = SpooledSink(link, "job-1", tmp_path / "spool")
    sink.forget()
    assert SpooledSink(link, "job-1", tmp_path / "spool").num_unsent == 1
    site.register()
    sink.flush()
    sink.forget()
    assert SpooledSink(link, "job-1", tmp_path / "spool").num_unsent == 0
    assert link.known_points("job-1") == {point.key: point}


def test_points_of_a_task_that_was_withdrawn_are_nobodys_and_leave_the_disk(site, link, tmp_path):
    site.register()
    sink = SpooledSink(link, "job-1", tmp_path / "spool")
    sink.add(next(points_of(KNOWN)))
    with pytest.raises(ProblemError, match="names nothing"):
        SpooledSink(link, "job-1", tmp_path / "spool").flush()
    sink.forget()
    assert list((tmp_path / "spool").iterdir()) == []


# --- Drift.


def send(site, sample, times=1):
    for _ in range(times):
        answer = site.client.post("/agents/agent-1/samples", json=sample)
        assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_server_that_does_what_the_twin_says_has_not_drifted(site):
    drift = send(site, as_predicted(), times=5)
    assert not drift["drifted"]
    assert drift["ratios"] == pytest.approx(dict.fromkeys(drift["ratios"], 0.0), abs=1e-9)
    assert (
        'loadmaster_calibration_drifted{calibration_id="' + LLAMA + '"} 0.0'
        in site.client.get("/metrics").text
    )


def test_a_slower_server_has_drifted_once_enough_samples_say_so(site):
    slow = as_predicted()
    slow["itl_ms"] *= 1.5
    assert not send(site, slow, times=4)["drifted"]
    drift = send(site, slow)
    assert drift["drifted"]
    assert "POST /recalibrate" in drift["proposal"]
    (listed,) = site.client.get("/drift").json()["calibrations"]
    assert listed["ratios"]["itl"] == pytest.approx(0.5)
    assert (
        'loadmaster_calibration_drifted{calibration_id="' + LLAMA + '"} 1.0'
        in site.client.get("/metrics").text
    )


@pytest.mark.parametrize("begins", [True, False])
def test_drift_begins_a_recalibration_where_the_settings_say_so(tmp_path, begins):
    store = start_store(tmp_path / "store")
    site = Site(tmp_path, drift_recalibrates=begins)
    slow = as_predicted()
    slow["itl_ms"] *= 1.5
    send(site, slow, times=7)
    kinds = [job["kind"] for job in site.client.get("/jobs").json()["jobs"]]
    site.close()
    stop(store, 20)
    assert kinds == ["recalibrate"] * begins


def test_one_burst_is_no_drift(site):
    send(site, as_predicted(), times=4)
    assert not send(site, as_predicted(waiting=500.0, running=300.0))["drifted"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"calibration_id": "none"}, "calibration_id"),
        ({"num_requests": 3}, "num_requests"),
        ({"max_lora_rank": 1024}, "max_lora_rank"),
    ],
)
def test_a_sample_that_tells_nothing_is_refused_by_field(site, changes, field):
    answer = site.client.post("/agents/agent-1/samples", json=as_predicted(**changes))
    assert (answer.status_code, answer.json()["field"]) == (422, field)
