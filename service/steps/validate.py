"""Judge a candidate against what is in force; publish it, or keep the report of why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from models.array_files import write_atomically
from models.artifact import load, load_teacher
from models.evaluation import Subject, evaluate_runs
from models.figures import figures, student_factors
from models.pipeline import held_out
from models.surrogate import TARGETS
from service.errors import NotFoundError, VersionRefusedError
from service.factory import build_versions
from service.services.gate import STEADY_S, judge
from service.services.measurements import RUNS, MeasurementSets
from service.steps.bench import bench
from service.steps.train import candidate_name
from service.storage.audit import AuditLog
from service.storage.versions import Lineage, created_now
from twin.measured import read_runs
from twin.validate import figures as twin_figures
from twin.validate import predict_runs

if TYPE_CHECKING:
    from pathlib import Path

    from models.dataset import Dataset
    from models.surrogate import Surrogate
    from service.steps.bench import Bench
    from twin.domain import Calibration


def run(payload: dict[str, Any]) -> dict[str, Any]:
    """Judge; put the version in force if it holds."""
    with bench(payload) as here:
        if here is None:
            return {"wanted": False}
        job = here.job
        name = candidate_name(job.job_id, job.generation)
        directory = here.files.fetch(name)
        report = _report(here, directory)
        _keep(here, report)
        if report["verdict"]["passed"]:
            _publish(here, directory, report)
        stage = "published" if report["verdict"]["passed"] else "rejected"
        here.recalibrations.complete(
            job.job_id,
            job.generation,
            "validating",
            stage,
            detail=report["verdict"]["reason"],
            report=report,
        )
        for done in filter(None, (name, job.live_servers)):
            here.files.forget(done)
        return {"stage": stage}


def _report(here: Bench, directory: Path) -> dict[str, Any]:
    job = here.job
    dataset = here.dataset()
    candidate = Subject(
        calibration=here.calibration, surrogate=load(directory), teacher=load_teacher(directory)
    )
    here.note(0.2, "comparing with held-out twin runs and measured runs")
    found = _figures(here, dataset, candidate)
    current = _in_force(here)
    before = None if current is None else _figures(here, dataset, current)
    verdict = judge(found, before, slack=here.settings.gate_slack)
    return {
        "verdict": verdict.document(),
        "candidate": {"surrogate_version": candidate.surrogate.version, **found},
        "in_force": None
        if current is None or before is None
        else {"surrogate_version": current.surrogate.version, **before},
        "dataset": job.dataset,
        "measurement_set": job.measurement_set,
    }


def _figures(here: Bench, dataset: Dataset, subject: Subject) -> dict[str, dict[str, float | None]]:
    return {
        "held_out": _held_out_figures(dataset, subject.calibration, subject.surrogate, here.job.seed),
    } | _measured_figures(here, subject)


def _held_out_figures(
    dataset: Dataset, calibration: Calibration, surrogate: Surrogate, seed: int
) -> dict[str, float | None]:
    """Return errors on the twin runs held out; features are those that the surrogate's calibration sees."""
    _, unseen = held_out(dataset, calibration, seed)
    trees = {target: getattr(surrogate, target) for target in TARGETS}
    return figures(unseen, student_factors(trees, unseen.rows))


def _measured_figures(here: Bench, subject: Subject) -> dict[str, dict[str, float | None]]:
    """Return errors on the measured runs: the twin's, and the trees' on the long ones."""
    if here.job.measurement_set is None:  # of a refresh of what is shipped
        return {"twin": {}, "measured": {}}
    directory = MeasurementSets(here.files).get(here.job.measurement_set).directory
    model = here.job.base_model
    runs = [run for run in read_runs(directory / RUNS) if run.model == model]
    steady = [run for run in runs if run.duration_s >= STEADY_S]
    blocks = evaluate_runs(steady, {model: subject})["by_model"].get(model)
    twin = twin_figures(predict_runs(runs, lambda _: subject.calibration)) if runs else {}
    return {"twin": twin, "measured": {} if blocks is None else dict(blocks["tree"])}


def _in_force(here: Bench) -> Subject | None:
    """Return what plans now for the target, None where nothing sound does."""
    calibration_id = here.job.target.calibration_id
    version = build_versions(here.files, here.client, here.settings).in_force(calibration_id)
    if version is None:
        return None
    try:
        target = here.versions.load(calibration_id, version)
    except (NotFoundError, VersionRefusedError):
        return None
    return Subject(calibration=target.calibration, surrogate=target.surrogate, teacher=None)


def _keep(here: Bench, report: dict[str, Any]) -> None:
    path = here.settings.data_dir / "reports" / f"{here.job.job_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, orjson.dumps(report, option=orjson.OPT_INDENT_2))


def _publish(here: Bench, directory: Path, report: dict[str, Any]) -> None:
    """Publish and put in force; done before, nothing changes."""
    job, calibration_id, live = here.job, here.job.target.calibration_id, here.design.live
    lineage = Lineage(
        created_at=created_now(),
        measurement_set=job.measurement_set,
        job_id=job.job_id,
        gate=report["verdict"],
        live_servers=None if live is None else live.digest,
    )
    version = here.versions.publish(directory, here.calibration, lineage, live)
    here.note(0.9, f"putting {version.name} in force")
    versions, actor = build_versions(here.files, here.client, here.settings), job.job_id
    if versions.in_force(calibration_id) != version.name:
        versions.activate(version.name, actor=actor)
        AuditLog(here.settings.audit_path).write(
            at_s=here.recalibrations.now_s(),
            actor=actor,
            action="surrogates activate",
            calibration_id=calibration_id,
            surrogate_version=version.name,
        )
