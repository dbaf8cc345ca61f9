"""What is written in the store by a clock that has jumped since, or that is another host's."""

import os
import time

import pytest
from rq.executions import Execution
from rq.job import JobStatus
from rq.serializers import JSONSerializer

from service.services.clock import Clock
from service.services.measurements import MeasurementSets
from service.services.measuring import MeasuringOutcome, MeasuringTarget
from service.services.recalibration import RecalibrationService
from service.services.recalibration_request import RecalibrationRequest
from service.services.retention import forget_old_datasets
from service.storage.connection import hold
from service.storage.datasets import dataset_storage
from service.storage.files import FileExchange
from service.storage.jobs import enqueue_due, job_queue
from service.storage.leases import Silences, delete_job
from service.worker.process import JobWorker
from tests.integration.conftest import make_settings

DAY_S = 86_400
LOST_AFTER_S = 20


@pytest.fixture
def settings(store_dir):
    return make_settings(store_dir.parent, store_timeout_s=10.0, job_heartbeat_s=LOST_AFTER_S)


class Leases:
    """A queue with one job that runs, and whoever watches over it."""

    def __init__(self, name, client, settings):
        self.now_s = 0.0
        self.client = client
        self.queue = job_queue(name, client, settings)
        self.queue.leases_seen = Silences(lambda: self.now_s)
        self.job = self.queue.enqueue_call("os.getpid")
        self.queue.pop_job_id()
        with client.pipeline() as pipeline:
            self.execution = Execution.create(self.job, LOST_AFTER_S, pipeline)
            self.job.set_status(JobStatus.STARTED, pipeline=pipeline)
            pipeline.execute()

    def lease_until(self, wall_s):
        self.client.zadd(self.queue.started_job_registry.key, {self.execution.composite_key: int(wall_s)})

    def look_after(self, seconds):
        self.now_s += seconds
        self.queue.started_job_registry.cleanup()

    @property
    def runs(self):
        return self.job.get_status() == JobStatus.STARTED


@pytest.fixture
def leases(request, redis_client, settings):
    return Leases(request.node.name, redis_client, settings)


@pytest.mark.parametrize("ahead_s", [-DAY_S, 0, DAY_S])
def test_a_job_whose_lease_is_prolonged_stays_its_workers_whatever_time_the_lease_says(leases, ahead_s):
    for beat in range(20):
        leases.lease_until(time.time() + ahead_s + beat)
        leases.look_after(5)
        assert leases.runs


@pytest.mark.parametrize("ahead_s", [-DAY_S, 0, DAY_S])
def test_a_job_whose_lease_is_not_prolonged_is_given_back_whatever_time_the_lease_says(leases, ahead_s):
    leases.lease_until(time.time() + ahead_s)
    leases.look_after(0)
    leases.look_after(LOST_AFTER_S - 1)
    assert leases.runs
    leases.look_after(2)
    assert not leases.runs
    assert leases.queue.started_job_registry.get_job_ids(cleanup=False) == []


def test_a_job_on_its_way_is_given_back_once_it_was_seen_there_for_long(leases):
    transit = leases.queue.intermediate_queue
    leases.client.rpush(transit.key, leases.job.id)
    transit.silences = Silences(lambda: leases.now_s)
    transit.observe()
    leases.now_s = LOST_AFTER_S - 1
    assert not transit.should_be_cleaned_up(leases.job.id)
    leases.now_s = LOST_AFTER_S + 1
    assert transit.should_be_cleaned_up(leases.job.id)


@pytest.mark.parametrize(("ends_in_s", "is_over"), [(-DAY_S, True), (-1, True), (20, False), (DAY_S, True)])
def test_a_pause_that_ends_later_than_any_pause_can_is_over(
    request, redis_client, settings, ends_in_s, is_over
):
    queue = job_queue(request.node.name, redis_client, settings)
    job = queue.enqueue_call("os.getpid")
    queue.pop_job_id()
    redis_client.zadd(queue.scheduled_job_registry.key, {job.id: time.time() + ends_in_s})
    enqueue_due(queue)
    assert (job.id in queue.get_job_ids()) == is_over


def test_a_key_that_is_held_for_longer_than_anyone_may_is_free(redis_client):
    redis_client.set("held-before-the-clock-went-back", 1, px=1000 * DAY_S)
    assert hold(redis_client, "held-before-the-clock-went-back", 60_000)
    assert not hold(redis_client, "held-before-the-clock-went-back", 60_000)


def test_a_job_can_be_deleted_whose_run_has_expired_in_the_store(leases):
    leases.client.delete(leases.execution.key)
    delete_job(leases.job)
    assert leases.queue.fetch_job(leases.job.id) is None


def test_a_dead_letter_is_listed_as_long_as_the_store_has_it(redis_client, settings, request):
    queue = job_queue(request.node.name, redis_client, settings)
    job, expired = queue.enqueue_call("os.getpid"), queue.enqueue_call("os.getpid")
    for one in (job, expired):
        queue.failed_job_registry.add(one, ttl=60)
        redis_client.zadd(queue.failed_job_registry.key, {one.id: time.time() - DAY_S})
    expired.delete(remove_from_queue=False)
    redis_client.zadd(queue.failed_job_registry.key, {expired.id: time.time() + DAY_S})
    worker = worker_on(queue, redis_client)
    worker.clean_registries()
    assert queue.failed_job_registry.get_job_ids(cleanup=False) == [job.id]


def worker_on(queue, client):
    worker = JobWorker([queue], name=f"{queue.name}-worker", connection=client, serializer=JSONSerializer)
    worker.tick = lambda: None
    return worker


def names_of_workers(queue):
    return [one.name for one in JobWorker.all(queue=queue) if one.queue_names() == [queue.name]]


def test_a_worker_whose_entry_has_expired_in_the_store_is_listed_again(leases, redis_client):
    worker = worker_on(leases.queue, redis_client)
    worker.register_birth()
    redis_client.delete(worker.key)
    assert JobWorker.count(queue=leases.queue) == 1  # the name alone is left
    leases.queue.give_back_lost(worker)
    assert JobWorker.count(queue=leases.queue) == 0
    worker.heartbeat()  # now there is an entry again, and it is no whole one
    worker.run_maintenance_tasks()
    assert names_of_workers(leases.queue) == [worker.name]
    redis_client.srem(f"rq:workers:{leases.queue.name}", worker.key)  # by one who looked a moment before
    worker.run_maintenance_tasks()
    assert names_of_workers(leases.queue) == [worker.name]
    worker.register_death()


def test_a_dead_worker_is_not_listed_for_longer_though_the_stores_clock_went_back(leases, redis_client):
    worker = worker_on(leases.queue, redis_client)
    worker.register_birth()
    redis_client.expire(worker.key, DAY_S)
    leases.queue.give_back_lost(worker)
    assert redis_client.ttl(worker.key) <= worker.worker_ttl + 60
    worker.register_death()


class Nobody:
    """Agents that are asked to no avail."""

    def ask(self, job_id, target):
        pass

    def outcome(self, job_id):  # noqa: ARG002
        return MeasuringOutcome(state="waiting")

    def withdraw(self, job_id):
        pass


def test_a_recalibration_asked_for_after_the_clock_went_back_is_the_newest_and_no_stage_ends_before_it_began(
    redis_client, tmp_path, settings
):
    now_s = time.time()
    sets = MeasurementSets(FileExchange(tmp_path, redis_client))
    clock = Clock(wall_s=lambda: now_s)
    service = RecalibrationService(redis_client, sets, Nobody(), clock, settings)
    asked = []
    for gpu_type, ahead_s in (("gpu-before", DAY_S), ("gpu-after", -DAY_S)):
        now_s = time.time() + ahead_s
        target = MeasuringTarget(base_model="m", gpu_type=gpu_type, engine_version="vllm-0.8.5")
        asked.append(service.submit(RecalibrationRequest(target=target), actor="test").job_id)
    assert [one.job_id for one in service.latest(2)] == asked[::-1]
    for job_id in asked:
        stages = service.cancel(job_id).stages
        assert all(one.ended_at_s >= one.started_at_s for one in stages)
        assert [one.started_at_s for one in stages] == sorted(one.started_at_s for one in stages)


def test_parts_of_a_recalibration_under_way_stay_however_old_they_look(tmp_path, redis_client):
    settings = make_settings(tmp_path, result_ttl_s=60)
    parts = tmp_path / "datasets" / ".parts"
    for name in ("under-way", "given-up"):
        (parts / name).mkdir(parents=True)
    long_ago = time.time() - DAY_S
    for name in ("under-way", "given-up"):
        os.utime(parts / name, (long_ago, long_ago))
    (tmp_path / "datasets" / "c" / "new").mkdir(parents=True)
    datasets = dataset_storage(settings, FileExchange(tmp_path, redis_client))
    forget_old_datasets(datasets, settings, keep="datasets/c/new", under_way=["under-way"])
    assert [path.name for path in parts.iterdir()] == ["under-way"]
