"""The trace of a recalibration: kept in its document, so that whoever moves it on goes on with it."""

import numpy as np
import orjson
import pytest

from service.factory import build_recalibrations
from service.services.clock import Clock
from service.services.measurements import MeasurementSets
from service.services.measuring import MeasuringTarget
from service.services.recalibration_request import RecalibrationRequest
from service.storage.files import FileExchange
from service.storage.jobs import TRAIN_QUEUE, TWIN_QUEUE, job_queue
from service.storage.recalibrations import RECALIBRATIONS
from service.storage.waves import Wave
from service.tracing import span, start_tracing, stop_tracing, traceparent
from tests.integration.conftest import make_settings
from tests.support.collector import running_collector
from tests.support.measurement_sets import minimal_tables

WHY = "the extra otel is not installed"
pytest.importorskip("opentelemetry.sdk", reason=WHY)
messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason=WHY)


@pytest.fixture
def settings(store_dir):
    return make_settings(store_dir.parent, store_timeout_s=10.0, rows_a_batch=64)


@pytest.fixture
def files(redis_client, tmp_path):
    return FileExchange(tmp_path, redis_client)


@pytest.fixture
def service(redis_client, files, settings):
    service = build_recalibrations(redis_client, files, settings, Clock())
    yield service
    for one in service.latest(100):
        if not one.has_ended:
            service.cancel(one.job_id)


@pytest.fixture
def tracing(settings):
    with running_collector(messages) as (address, _):
        start_tracing(settings.model_copy(update={"otel_endpoint": address}), "test")
        yield
        stop_tracing()


def submit(service, files, gpu_type):
    target = MeasuringTarget(
        base_model="llama-3.1-8b-instruct", gpu_type=gpu_type, engine_version="vllm-0.8.5"
    )
    set_id = MeasurementSets(files).add(minimal_tables()).set_id
    return service.submit(
        RecalibrationRequest(target=target, measurement_set=set_id), actor="test", request_id="asked-for-it"
    )


def told_of(client, settings, queue_name, job):
    """What a worker learns of the steps of a recalibration that wait."""
    queue = job_queue(queue_name, client, settings)
    steps = [queue.fetch_job(name) for name in queue.get_job_ids() if job.job_id[12:] in name]
    return [(step.meta["step"], step.meta["traceparent"], step.meta["request_id"]) for step in steps]


@pytest.mark.usefixtures("tracing")
def test_steps_and_batches_of_every_wave_carry_the_trace_of_the_request(
    service, files, redis_client, settings
):
    with span("POST /recalibrate"):
        asked_in = traceparent()
        job = submit(service, files, "gpu-traced")
    assert told_of(redis_client, settings, TRAIN_QUEUE, job) == [("fit", asked_in, "asked-for-it")]
    assert service.complete(job.job_id, 0, "fitting", "simulating", calibration_digest="d")
    for number in range(2):
        service.open_wave(job.job_id, 0, number, np.arange(64))
        assert ("batch", asked_in, "asked-for-it") in told_of(redis_client, settings, TWIN_QUEUE, job)
        wave = Wave(redis_client, job.job_id, number)
        wave.commit(0, np.zeros((64, 2)))


@pytest.mark.usefixtures("tracing")
def test_what_is_tried_again_goes_on_in_the_trace_of_the_request_that_asked_for_it(
    service, files, redis_client, settings
):
    with span("POST /recalibrate"):
        job = submit(service, files, "gpu-traced-again")
    service.cancel(job.job_id)
    with span("POST /jobs/{job_id}/retry"):
        asked_in = traceparent()
        service.retry(job.job_id)
    assert told_of(redis_client, settings, TRAIN_QUEUE, job) == [("fit", asked_in, "asked-for-it")]


def test_a_recalibration_that_an_earlier_version_stored_is_moved_on(service, files, redis_client):
    job = submit(service, files, "gpu-of-before")
    document = orjson.loads(redis_client.hget(RECALIBRATIONS, job.job_id))
    del document["traceparent"]
    redis_client.hset(RECALIBRATIONS, job.job_id, orjson.dumps(document))
    service.note(job.job_id, 0, progress=0.5, detail="half of it")
    assert service.get(job.job_id).stages[-1].progress == 0.5
