"""Recalibrations whose steps a test runs itself, in this process, as forks of workers would."""

from service.factory import build_recalibrations
from service.services.clock import Clock
from service.services.measurements import MeasurementSets
from service.services.measuring import MeasuringTarget
from service.services.recalibration_request import RecalibrationRequest
from service.settings import Settings
from service.steps import batch, gather, train, validate
from service.storage.connection import connect
from service.storage.files import FileExchange
from service.storage.recalibrations import RecalibrationStore
from service.storage.versions import VersionStore
from service.storage.waves import Wave
from tests.support.measurement_sets import minimal_tables
from twin.calibration import load_calibration, shipped_calibration_ids


class StepsByHand:
    """The steps of one host: what its environment says is what it does."""

    def __init__(self):
        self.settings = Settings()
        self.client = connect(self.settings)
        self.files = FileExchange(self.settings.data_dir, self.client)
        self.service = build_recalibrations(self.client, self.files, self.settings, Clock())
        self.jobs = []

    def fitted(self, num_rows, seed=0):
        """A recalibration of a shipped calibration that is to simulate; returns its id."""
        known = load_calibration(shipped_calibration_ids()[0])
        gpu_type, base_model, engine_version = known.calibration_id.split("/")
        target = MeasuringTarget(base_model=base_model, gpu_type=gpu_type, engine_version=engine_version)
        self._end_what_others_left(base_model)
        set_id = MeasurementSets(self.files).add(minimal_tables()).set_id
        request = RecalibrationRequest(target=target, measurement_set=set_id, num_rows=num_rows, seed=seed)
        job = self.service.submit(request, actor="test")
        self.jobs.append(job.job_id)
        digest = VersionStore(self.files).publish_calibration(known)
        assert self.service.complete(job.job_id, 0, "fitting", "simulating", calibration_digest=digest)
        return job.job_id

    def simulate(self, job_id):
        """Run gatherings and batches until the data set is complete, and return what is told of it."""
        while "sha256" not in (made := self.gather(job_id)):
            while self.one_batch(job_id):
                pass
        return made

    def one_batch(self, job_id):
        """Run a batch of the present wave; tells whether there was one."""
        job = self.service.get(job_id)
        for index in Wave(self.client, job_id, job.wave).open_batches()[:1]:
            batch.run(self._payload(job) | {"wave": job.wave, "index": index})
            return True
        return False

    def publish(self, job_id):
        """Run all that is left of a recalibration, and return it."""
        self.simulate(job_id)
        for step in (train, validate):
            step.run(self._payload(self.service.get(job_id)))
        return self.service.get(job_id)

    def gather(self, job_id):
        return gather.run(self._payload(self.service.get(job_id)))

    def _end_what_others_left(self, base_model):
        """One recalibration of a target is under way at a time, and tests share a store."""
        for job in RecalibrationStore(self.client).under_way():
            if job.base_model == base_model:
                self.service.cancel(job.job_id)

    def _payload(self, job):
        return {"job_id": job.job_id, "generation": job.generation}

    def close(self):
        for job_id in self.jobs:
            if not self.service.get(job_id).has_ended:
                self.service.cancel(job_id)
        self.client.close()
