"""Recalibrations as a state machine: joined, moved on once, cancelled, tried again."""

import numpy as np
import pytest

from service.errors import ConflictError, InvalidRequestError, NotFoundError
from service.factory import build_recalibrations
from service.services.clock import Clock
from service.services.measurements import MeasurementSets
from service.services.measuring import MeasuringOutcome, MeasuringTarget
from service.services.recalibration import RecalibrationService
from service.services.recalibration_request import RecalibrationRequest
from service.storage.files import FileExchange
from service.storage.jobs import TRAIN_QUEUE, TWIN_QUEUE, job_queue
from service.storage.waves import Wave
from tests.integration.conftest import make_settings
from tests.support.measurement_sets import minimal_tables

MODEL = "llama-3.1-8b-instruct"


class Agents:
    """Agents that measure when a test says so."""

    def __init__(self):
        self.asked, self.withdrawn = [], []
        self.next = MeasuringOutcome(state="measuring", progress=0.25, reason="two of eight runs")

    def ask(self, job_id, target):
        self.asked.append((job_id, target))

    def outcome(self, job_id):  # noqa: ARG002
        return self.next

    def withdraw(self, job_id):
        self.withdrawn.append(job_id)


@pytest.fixture
def settings(store_dir):
    return make_settings(store_dir.parent, store_timeout_s=10.0, rows_a_batch=64)


@pytest.fixture
def sets(redis_client, tmp_path):
    return MeasurementSets(FileExchange(tmp_path, redis_client))


@pytest.fixture
def agents():
    return Agents()


@pytest.fixture
def service(redis_client, sets, agents, settings):
    service = RecalibrationService(redis_client, sets, agents, Clock(), settings)
    yield service
    for one in service.latest(100):
        if not one.has_ended:
            service.cancel(one.job_id)


def request(gpu_type, **changes):
    target = MeasuringTarget(base_model=MODEL, gpu_type=gpu_type, engine_version="vllm-0.8.5")
    return RecalibrationRequest(target=target, **changes)


def submit(service, gpu_type, **changes):
    return service.submit(request(gpu_type, **changes), actor="test")


def waiting(client, settings, queue):
    return job_queue(queue, client, settings).get_job_ids()


def simulating(service, sets, gpu_type):
    """A recalibration that was fitted; returns it as it stands."""
    job = submit(service, gpu_type, measurement_set=sets.add(minimal_tables()).set_id)
    assert service.complete(job.job_id, 0, "fitting", "simulating", calibration_digest="d")
    return service.get(job.job_id)


def test_two_requests_for_one_target_join_one_job_and_two_targets_do_not(service):
    first = submit(service, "gpu-joined")
    assert submit(service, "gpu-joined").job_id == first.job_id
    assert submit(service, "gpu-other").job_id != first.job_id
    with pytest.raises(ConflictError, match=first.job_id):
        submit(service, "gpu-joined", num_rows=128)
    service.cancel(first.job_id)
    assert submit(service, "gpu-joined").job_id != first.job_id


def test_a_job_that_waits_for_measurements_takes_those_of_a_later_request(service, sets, agents):
    job = submit(service, "gpu-late")
    assert (job.stage, job.stages[-1].detail) == ("measuring", "two of eight runs")
    assert job.stages[-1].progress == 0.25
    set_id = sets.add(minimal_tables()).set_id
    joined = submit(service, "gpu-late", measurement_set=set_id)
    assert (joined.job_id, joined.stage, joined.measurement_set) == (job.job_id, "fitting", set_id)
    assert agents.withdrawn == [job.job_id]
    other = minimal_tables(**{"model_config.json": CONFIG})
    with pytest.raises(ConflictError, match="other measurements"):
        submit(service, "gpu-late", measurement_set=sets.add(other).set_id)


CONFIG = b"""{"num_attention_heads": 32, "hidden_size": 4096, "num_hidden_layers": 32,
"intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072}"""


def test_agents_are_asked_and_what_they_measured_is_fitted(service, sets, agents):
    job = submit(service, "gpu-agents")
    assert agents.asked[0] == (job.job_id, job.target)
    set_id = sets.add(minimal_tables()).set_id
    agents.next = MeasuringOutcome(state="done", progress=1.0, set_id=set_id)
    service.advance(job.job_id)
    assert (service.get(job.job_id).stage, service.get(job.job_id).measurement_set) == ("fitting", set_id)


def test_measuring_that_fails_fails_the_job_and_a_retry_measures_again(service, agents):
    job = submit(service, "gpu-broken")
    agents.next = MeasuringOutcome(state="failed", reason="the server does not start")
    service.advance(job.job_id)
    failed = service.get(job.job_id)
    assert (failed.stage, failed.error) == ("failed", "the server does not start")
    agents.next = MeasuringOutcome(state="measuring")
    again = service.retry(job.job_id)
    assert (again.stage, again.generation, again.error) == ("measuring", 1, None)


def test_without_agents_a_job_says_what_it_waits_for(redis_client, tmp_path, settings):
    files = FileExchange(tmp_path, redis_client)
    service = build_recalibrations(redis_client, files, settings, Clock())
    job = submit(service, "gpu-nobody")
    assert job.stage == "measuring"
    assert job.stages[-1].detail
    service.cancel(job.job_id)


def test_a_set_without_runs_of_the_model_and_an_unknown_set_are_refused(service, sets):
    set_id = sets.add(minimal_tables()).set_id
    target = MeasuringTarget(base_model="another", gpu_type="gpu", engine_version="vllm-0.8.5")
    with pytest.raises(InvalidRequestError) as refused:
        service.submit(RecalibrationRequest(target=target, measurement_set=set_id), actor="test")
    assert refused.value.field == "measurement_set"
    with pytest.raises(NotFoundError):
        submit(service, "gpu-unknown", measurement_set="0" * 24)


def test_a_step_is_queued_once_however_often_it_is_looked_after(service, sets, redis_client, settings):
    job = submit(service, "gpu-once", measurement_set=sets.add(minimal_tables()).set_id)
    for _ in range(3):
        service.advance(job.job_id)
    steps = [name for name in waiting(redis_client, settings, TRAIN_QUEUE) if job.job_id[12:] in name]
    assert len(steps) == 1


def test_a_stage_is_left_once(service, sets):
    job = simulating(service, sets, "gpu-left")
    assert not service.complete(job.job_id, 0, "fitting", "simulating", calibration_digest="other")
    assert service.get(job.job_id).calibration_digest == "d"


def test_batches_go_through_a_window_and_the_last_one_has_results_gathered(
    service, sets, redis_client, settings
):
    job = simulating(service, sets, "gpu-window")
    service.open_wave(job.job_id, 0, 0, np.arange(1000))
    wave = Wave(redis_client, job.job_id, 0)
    mine = [name for name in waiting(redis_client, settings, TWIN_QUEUE) if job.job_id[12:] in name]
    assert len(mine) == len(wave.open_batches()) < 16
    while batches := wave.open_batches():
        for index in batches:
            wave.commit(index, np.zeros((len(wave.rows_of(index)), 2)))
        service.advance(job.job_id)
    assert wave.state().rows_done == 1000
    steps = waiting(redis_client, settings, TRAIN_QUEUE)
    assert any(job.job_id[12:] in name and "gather" in name for name in steps)


def test_a_batch_that_the_queue_lost_is_queued_again(service, sets, redis_client, settings):
    job = simulating(service, sets, "gpu-lost")
    service.open_wave(job.job_id, 0, 0, np.arange(64))
    queue = job_queue(TWIN_QUEUE, redis_client, settings)
    (name,) = [name for name in queue.get_job_ids() if job.job_id[12:] in name]
    queue.fetch_job(name).delete()
    service.advance(job.job_id)
    assert name in queue.get_job_ids()


def test_a_cancelled_job_leaves_no_step_behind_and_may_be_taken_up_again(
    service, sets, redis_client, settings, agents
):
    job = simulating(service, sets, "gpu-cancelled")
    service.open_wave(job.job_id, 0, 0, np.arange(640))
    assert service.cancel(job.job_id).stage == "cancelled"
    assert job.job_id in agents.withdrawn
    left = waiting(redis_client, settings, TWIN_QUEUE) + waiting(redis_client, settings, TRAIN_QUEUE)
    assert not [name for name in left if job.job_id[12:] in name]
    assert not service.is_wanted(job.job_id, 0)
    with pytest.raises(ConflictError):
        service.cancel(job.job_id)
    state = f"loadmaster:{{wave:{job.job_id}:0}}:state"
    assert redis_client.ttl(state) > 0
    again = service.retry(job.job_id)
    assert (again.stage, again.generation) == ("simulating", 1)
    assert redis_client.ttl(state) == -1
    assert [name for name in waiting(redis_client, settings, TWIN_QUEUE) if job.job_id[12:] in name]
    with pytest.raises(ConflictError):
        service.retry(job.job_id)


def test_a_job_is_not_taken_up_again_while_another_of_its_target_is_under_way(service):
    first = submit(service, "gpu-busy")
    service.cancel(first.job_id)
    second = submit(service, "gpu-busy")
    with pytest.raises(ConflictError, match=second.job_id):
        service.retry(first.job_id)
