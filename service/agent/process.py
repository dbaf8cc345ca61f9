"""``loadmaster agent``: register, ask for work, measure, report; until told to end."""

from __future__ import annotations

import random
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from service.agent.calibration import Session, StoppedError
from service.agent.drift import DriftWatch
from service.agent.errors import AgentError
from service.agent.hardware import find_engine_version, find_hardware
from service.agent.link import GONE, Link, SpooledSink
from service.agent.local import SMALL_MODEL_NAME, manifest_of, owned_home, subject_of
from service.agent.plan import stages_of
from service.agent.server import VllmServer
from service.client import LoadmasterError, ProblemError
from service.schemas.agents import AgentSchema, WorkOutcomeRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.agent.hardware import Hardware
    from service.agent.settings import AgentSettings
    from service.schemas.agents import WorkSchema

log = structlog.get_logger()


class Agent:
    """One agent: at most one task, and at most one server, at a time."""

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._hardware: Hardware = find_hardware(settings.gpu_type)
        self._engine_version = find_engine_version(settings)
        self._link = Link(settings)
        self._ending = threading.Event()
        self._lost = threading.Event()
        self._job_id: str | None = None
        self._session: Session | None = None

    def run(self) -> None:
        """Work until SIGTERM or SIGINT.

        Raises
        ------
        AgentError
            Another agent has this home.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ending.set())
        with owned_home(self._settings.home), self._heartbeats(), self._drift():
            while not self._ending.is_set():
                work = self._ask()
                if work is None:
                    self._ending.wait(self._settings.idle_s * random.uniform(0.7, 1.3))  # noqa: S311 (jitter)
                else:
                    self._do(work)
        self._link.close()

    # --- Being there.

    def _description(self) -> AgentSchema:
        settings, hardware = self._settings, self._hardware
        return AgentSchema(
            agent_id=settings.agent_id,
            gpu_type=hardware.gpu_type,
            engine_version=self._engine_version,
            base_models=sorted({*settings.models, SMALL_MODEL_NAME}),
            memory_bytes=settings.memory_budget_bytes or hardware.memory_bytes,
            device=hardware.name[:200],
            driver=hardware.driver,
        )

    def _ask(self) -> WorkSchema | None:
        """Return the task that is ours, None where there is none or the service is away."""
        try:
            return self._link.take_work()
        except ProblemError as error:
            if error.status not in GONE:
                log.warning("service_refuses", reason=str(error)[:300])
                return None
            return self._register_and_ask()
        except LoadmasterError as error:
            log.warning("service_away", reason=str(error)[:300])
            return None

    def _register_and_ask(self) -> WorkSchema | None:
        try:
            self._link.register(self._description())
            log.info("registered", agent_id=self._settings.agent_id, gpu_type=self._hardware.gpu_type)
            return self._link.take_work()
        except LoadmasterError as error:
            log.warning("not_registered", reason=str(error)[:300])
            return None

    @contextmanager
    def _heartbeats(self) -> Iterator[None]:
        """Tell that we live, from a thread of its own: measuring must not be interrupted for it."""
        thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            thread.join()

    def _beat(self) -> None:
        link = Link(self._settings)
        while not self._ending.wait(self._settings.heartbeat_s):
            job_id = self._job_id
            try:
                kept = link.heartbeat(job_id, self._progress())
            except ProblemError as error:
                kept = error.status not in GONE
            except LoadmasterError:
                continue
            if job_id is not None and not kept and job_id == self._job_id:
                self._lost.set()
        link.close()

    def _progress(self) -> float:
        session = self._session
        if session is None:
            return 0.0
        stages = stages_of(self._settings)
        most = sum(1 + len(stage.states) + len(stage.loads) + len(stage.checks) for stage in stages)
        return min(len(session.points) / most, 0.99)

    @contextmanager
    def _drift(self) -> Iterator[None]:
        """Watch a live server, where the settings name one."""
        if self._settings.drift_url is None:
            yield
            return
        watch = DriftWatch(self._settings, self._ending)
        watch.start()
        try:
            yield
        finally:
            self._ending.set()
            watch.join()

    # --- Work.

    def _do(self, work: WorkSchema) -> None:
        log.info("work", job_id=work.job_id, base_model=work.base_model)
        self._lost.clear()
        self._job_id = work.job_id
        sink = SpooledSink(self._link, work.job_id, self._settings.home / "spool")
        try:
            outcome = self._measure(work, sink)
            if outcome is not None:
                self._tell(work, sink, outcome)
        finally:
            self._job_id = self._session = None

    def _measure(self, work: WorkSchema, sink: SpooledSink) -> WorkOutcomeRequest | None:
        """Measure and return how it ended; None where the task is not ours any more."""
        try:
            subject = subject_of(self._settings, work.base_model)
            with VllmServer(self._settings, subject.model, subject.shape) as server:
                self._session = Session(
                    settings=self._settings,
                    subject=subject,
                    server=server,
                    sink=sink,
                    should_stop=lambda: self._ending.is_set() or self._lost.is_set(),
                )
                summary = self._session.run()
        except StoppedError:
            if self._lost.is_set():
                log.warning("work_lost", job_id=work.job_id)
                self._leave(sink)
                return None
            return WorkOutcomeRequest(state="returned", reason="the agent shuts down")
        except LoadmasterError as error:
            log.warning("service_away", reason=str(error)[:300])
            self._ending.wait(self._settings.idle_s)
            return None
        except AgentError as error:
            log.error("work_failed", job_id=work.job_id, reason=str(error)[-800:])  # noqa: TRY400
            return WorkOutcomeRequest(state="failed", reason=str(error)[:1000])
        manifest = manifest_of(self._settings, self._hardware, subject, summary)
        told = {name: getattr(manifest, name) for name in manifest.__slots__}
        return WorkOutcomeRequest(state="measured", manifest=told | {"uncertain": list(manifest.uncertain)})

    def _tell(self, work: WorkSchema, sink: SpooledSink, outcome: WorkOutcomeRequest) -> None:
        """Report what is left and how it ended, once at least and until the agent is to end."""
        while not self._tell_once(work, sink, outcome):
            if self._ending.wait(self._settings.idle_s):
                return

    def _tell_once(self, work: WorkSchema, sink: SpooledSink, outcome: WorkOutcomeRequest) -> bool:
        """Try to report what is left and how it ended; False where that is to be tried again."""
        try:
            sink.flush()
            self._link.end_work(work.job_id, outcome)
        except ProblemError as error:
            log.warning("outcome_refused", job_id=work.job_id, reason=str(error)[:300])
            # Points are refused for good only where they are nobody's; an outcome also where it is wrong.
            is_final = error.status in GONE or (not sink.num_unsent and error.status < 500)  # noqa: PLR2004
        except LoadmasterError as error:
            log.warning("service_away", reason=str(error)[:300])
            is_final = False
        else:
            log.info("work_ended", job_id=work.job_id, state=outcome.state)
            is_final = True
        if is_final:
            sink.forget()
        return is_final

    def _leave(self, sink: SpooledSink) -> None:
        """Report what is left of a task that is not ours any more: its points are welcome all the same."""
        try:
            sink.flush()
        except LoadmasterError as error:
            log.warning("points_wait", points=sink.num_unsent, reason=str(error)[:300])
        sink.forget()


def run_agent(settings: AgentSettings) -> None:
    """Run an agent until it is told to end."""
    Agent(settings).run()
