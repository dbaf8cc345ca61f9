"""The surrogate against measured runs, each predicted from its configuration alone, and against twin runs.

Calibration and surrogate are taken as they are; neither kind of run teaches here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from models.errors import DatasetError
from models.features import aggregate, features_of
from models.figures import figures as held_out_figures
from models.figures import physics_factors, student_factors
from models.kernels.surrogate import agreed
from models.report import reliability
from models.scenarios import GROUP_SIZE
from models.surrogate import TARGETS
from models.training import examples_of
from twin.calibration import calibration_sha256
from twin.measured import client_of, server_of, workload_of
from twin.memory import fits_in_memory
from twin.validate import Prediction, baseline_predictions, figures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from models.artifact import Manifest
    from models.dataset import Dataset
    from models.surrogate import Surrogate
    from models.teacher import Teacher
    from twin.domain import Calibration, ServerConfig, Workload
    from twin.measured import MeasuredRun

CLIENT_HALVINGS = 12
"""Steps of the search for the rate at which a client with bounded open requests settles."""


class Served(NamedTuple):
    """What a model says of one server."""

    served_fraction: float
    offered_tok_s: float
    itl_ms: float
    ttft_ms: float


class Predictor(Protocol):
    """What can be compared with measured runs."""

    def predict(self, workload: Workload, server: ServerConfig) -> Served:
        """Return the answer for one server that serves the whole workload."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePredictor:
    """The trees, as they serve."""

    surrogate: Surrogate

    def predict(self, workload: Workload, server: ServerConfig) -> Served:
        """Return the surrogate's prediction."""
        answer = self.surrogate.predict(workload, server)
        return Served(answer.served_fraction, answer.offered_tok_s, answer.itl_ms, answer.ttft_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherPredictor:
    """The ensemble that the trees learned from."""

    teacher: Teacher
    calibration: NDArray[np.float64]

    def predict(self, workload: Workload, server: ServerConfig) -> Served:
        """Return the teacher's correction of the physical estimates."""
        row, physics = features_of(
            aggregate(workload), server.max_loras, server.max_lora_rank, self.calibration
        )
        factors = self.teacher.factors(row[None, :])
        served = agreed(
            physics.served_fraction * float(factors["throughput"][0]), float(factors["starvation"][0])
        )
        itl_ms = physics.itl_ms * float(factors["itl"][0])
        return Served(served, physics.offered_tok_s, itl_ms, physics.ttft_ms * float(factors["ttft"][0]))


def predict_run(predictor: Predictor, run: MeasuredRun, calibration: Calibration) -> Prediction:
    """Return what a model says of a measured run, client included.

    The client holds a limited number of requests open; beyond that it sends only as fast as they end,
    whatever it counts as sent. So rates are scaled down until the requests left over fit that limit;
    those that did not reach the server count as unfinished, as measured. Latencies
    are the server's: what the API server adds to them needs more than a surrogate tells.
    """
    server = server_of(run)
    if not fits_in_memory(calibration, server):
        return Prediction(run=run, fits=False)
    if not run.rates_rps:
        return Prediction(run=run, fits=True)
    served, sent_share = _settled(predictor, workload_of(run, calibration, seed=0), server, run)
    share = served.served_fraction * sent_share
    return Prediction(
        run=run,
        fits=True,
        throughput_tok_s=served.served_fraction * served.offered_tok_s,
        itl_ms=served.itl_ms,
        ttft_ms=served.ttft_ms,
        ttft_incl_unfinished_ms=share * served.ttft_ms + (1.0 - share) * 1e3 * run.duration_s,
    )


def _settled(
    predictor: Predictor, workload: Workload, server: ServerConfig, run: MeasuredRun
) -> tuple[Served, float]:
    """Return the answer at the rates that the run's client can keep up, and their share of its own."""
    limit = client_of(run).max_unfinished_requests
    served = predictor.predict(workload, server)
    if limit is None or _unfinished(served, workload, run) <= limit:
        return served, 1.0
    low, middle, high = 0.0, 1.0, 1.0
    for _ in range(CLIENT_HALVINGS):
        middle = 0.5 * (low + high)
        slowed = replace(workload, rate_rps=workload.rate_rps * middle)
        served = predictor.predict(slowed, server)
        if _unfinished(served, slowed, run) > limit:
            high = middle
        else:
            low = middle
    return served, middle


def _unfinished(served: Served, workload: Workload, run: MeasuredRun) -> float:
    return (1.0 - served.served_fraction) * float(workload.rate_rps.sum()) * run.duration_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One base model's calibration, surrogate and, where it was published, teacher."""

    calibration: Calibration
    surrogate: Surrogate
    teacher: Teacher | None


def evaluate_runs(runs: Sequence[MeasuredRun], subjects: Mapping[str, Subject]) -> dict[str, Any]:
    """Return the figures of trees, teacher and the one-line baseline, as ``evaluate --json`` prints them.

    Parameters
    ----------
    runs
        Measured runs; those of base models without a subject are counted under ``skipped_runs``.
    subjects
        By base model.

    Returns
    -------
    ``{"by_model": {MODEL: {"tree", "teacher", "baseline"}}, "tree": {"by_model": {MODEL: figures}}, ...,
    "skipped_runs"}``: the same figures by model and by predictor.
    """
    by_model: dict[str, dict[str, dict[str, Any] | None]] = {}
    for model in sorted({run.model for run in runs} & subjects.keys()):
        by_model[model] = _blocks([run for run in runs if run.model == model], subjects[model])
    by_predictor = {
        name: {"by_model": {model: blocks[name] for model, blocks in by_model.items()}}
        for name in ("tree", "teacher", "baseline")
    }
    skipped = sum(run.model not in subjects for run in runs)
    return {"by_model": by_model, **by_predictor, "skipped_runs": skipped}


def _blocks(runs: Sequence[MeasuredRun], subject: Subject) -> dict[str, dict[str, Any] | None]:
    calibration = subject.calibration
    tree = TreePredictor(surrogate=subject.surrogate)
    blocks: dict[str, dict[str, Any] | None] = {
        "tree": figures([predict_run(tree, run, calibration) for run in runs]),
        "teacher": None,
        "baseline": figures(baseline_predictions(runs)) | {"fits_accuracy": None},
    }
    if subject.teacher is not None:
        teacher = TeacherPredictor(teacher=subject.teacher, calibration=subject.surrogate.calibration)
        blocks["teacher"] = figures([predict_run(teacher, run, calibration) for run in runs])
    return blocks


def evaluate_dataset(dataset: Dataset, subject: Subject, manifest: Manifest) -> dict[str, Any]:
    """Return figures on twin runs that taught nothing, as ``evaluate --dataset --json`` prints them.

    Parameters
    ----------
    dataset
        Of the subject's calibration and another seed; only rows that fill the range evenly count.
    subject, manifest
        The surrogate, and what it was trained on.

    Returns
    -------
    ``{"tree", "teacher", "physics", "reliability"}``: figures as in a manifest, None where no teacher was
    published, and the table of `models.report.reliability`.

    Raises
    ------
    DatasetError
        When the surrogate may have learned from these rows, or the data set is of another calibration.
    """
    origin = dataset.origin
    if origin.calibration_sha256 != calibration_sha256(subject.calibration):
        raise DatasetError(f"calibration_id: the data set was made with another {origin.calibration_id}")
    if origin.design.seed == manifest.dataset_seed:
        raise DatasetError(f"seed: {origin.design.seed} is the seed of the runs that taught the surrogate")
    examples = examples_of(dataset, subject.calibration)
    examples = examples.part(examples.group < -(-origin.design.num_first // GROUP_SIZE))
    trees = {target: getattr(subject.surrogate, target) for target in TARGETS}
    said = student_factors(trees, examples.rows)
    taught = None if subject.teacher is None else subject.teacher.factors(examples.rows)
    return {
        "tree": held_out_figures(examples, said),
        "teacher": None if taught is None else held_out_figures(examples, taught),
        "physics": held_out_figures(examples, physics_factors(examples)),
        "reliability": reliability(said["starvation"], examples.targets["starvation"] > 0),
    }
