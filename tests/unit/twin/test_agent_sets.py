"""Agents' measurement sets: a fit finds the laws that made the tables and says what they leave open."""

from dataclasses import replace

import pytest

from tests.support.agent_sets import KNOWN, MODEL, check_point, manifest, points_of, write_set
from twin.calibration import calibration_from_json, calibration_to_json
from twin.errors import InvalidInputError, UnidentifiableError
from twin.fitting.calibrate import fit_calibration, measured_models
from twin.measurement_set import STEPS, manifest_from_json, manifest_to_json, read_manifest
from twin.simulate import simulate


def fitted(directory, points=None, **changes):
    points = list(points_of(KNOWN)) if points is None else points
    return fit_calibration(write_set(directory, points, **changes), MODEL).calibration


def test_the_laws_that_made_the_tables_are_found_again(tmp_path):
    found = fitted(tmp_path)
    for part in ("step", "scheduler", "load"):
        known, law = getattr(KNOWN, part), getattr(found, part)
        for name in known.__slots__:
            assert getattr(law, name) == pytest.approx(getattr(known, name), rel=1e-4, abs=1e-6), name
    block_bytes = 16 * 1024
    assert abs(found.memory.pool_bytes - KNOWN.memory.pool_bytes) <= block_bytes


def test_a_calibration_is_named_after_what_its_set_was_measured_on(tmp_path):
    found = fitted(tmp_path, gpu_type="gh200-96gb", engine_version="vllm-9.9", device="GH200 555.1")
    assert found.calibration_id == f"gh200-96gb/{MODEL}/vllm-9.9"
    assert found.provenance["device"] == "GH200 555.1"
    assert measured_models(tmp_path) == (MODEL,)


def test_terms_that_no_state_shows_are_nothing_and_are_named(tmp_path):
    found = fitted(tmp_path)
    assert found.step.compute_ms == 0
    assert found.provenance["not_measured"] == "step.compute_ms, step.rank_ms, step.eager_ms"


def test_errors_of_a_noisy_set_are_those_of_its_noise(tmp_path):
    found = fitted(tmp_path, list(points_of(KNOWN, spread=0.03)))
    assert 1.0 < found.errors["step.ms_mape_pct"] < 5.0
    assert found.errors["memory.verdict_accuracy"] == 1
    assert found.standard_errors["step.base_ms"] > 0


def test_states_that_are_little_certain_count_little(tmp_path):
    points = list(points_of(KNOWN))
    unsure = [
        replace(
            point,
            key=f"{point.key}-again",
            row=point.row
            | {"step_ms": 1.04 * point.row["step_ms"], "step_ms_se": 0.5 * point.row["step_ms"]},
        )
        for point in points
        if point.table == STEPS
    ]
    assert fitted(tmp_path, [*points, *unsure]).step.base_ms == pytest.approx(KNOWN.step.base_ms, rel=5e-3)


def test_open_loop_runs_check_the_fit_and_teach_nothing(tmp_path):
    points = list(points_of(KNOWN))
    without = fitted(tmp_path / "without", points)
    checked = fitted(tmp_path / "with", [*points, check_point(2.0, 1.0)])
    assert checked.step == without.step
    assert checked.errors["check.throughput_smape_half_pct"] > 50
    assert "check.throughput_smape_half_pct" not in without.errors


def test_a_fitted_calibration_is_read_back_equal_and_simulates(tmp_path):
    from twin.domain import Adapter, ServerConfig, Workload  # noqa: PLC0415

    found = fitted(tmp_path)
    assert calibration_from_json(calibration_to_json(found)) == found
    adapter = Adapter(adapter_id="a", rank=8, rate_rps=1.0, input_tokens_mean=30, output_tokens_mean=30)
    report = simulate(
        Workload.from_adapters([adapter]), ServerConfig(max_loras=2, max_lora_rank=8), found, horizon_s=60
    )
    assert report.num_requests_completed > 0


def test_a_set_of_another_model_is_refused(tmp_path):
    write_set(tmp_path, points_of(KNOWN))
    with pytest.raises(InvalidInputError, match="small-random-llama"):
        fit_calibration(tmp_path, "another")


def test_too_few_states_cannot_tell_a_step(tmp_path):
    points = [point for point in points_of(KNOWN) if point.table != STEPS]
    points += [point for point in points_of(KNOWN) if point.table == STEPS][:3]
    with pytest.raises(UnidentifiableError, match=r"step\.base_ms needs 6 held states, got 3"):
        fitted(tmp_path, points)


@pytest.mark.parametrize("time_ms", [0, "", "soon"])
def test_a_step_that_took_no_time_is_refused_by_file_line_and_column(tmp_path, time_ms):
    points = list(points_of(KNOWN))
    place = next(place for place, point in enumerate(points) if point.table == STEPS)
    points[place] = replace(points[place], row=points[place].row | {"step_ms": time_ms})
    with pytest.raises(InvalidInputError, match=r"measurements\.step_points\.csv line \d+, step_ms"):
        fitted(tmp_path, points)


def test_a_manifest_is_read_back_equal(tmp_path):
    told = manifest(uncertain=("nothing much",), device="a processor")
    assert manifest_from_json(manifest_to_json(told)) == told
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[]", "manifest"),
        ("{", "manifest"),
        ('{"gpu_type": "a"}', "manifest"),
        ('{"colour": 1}', r"manifest\.colour"),
        (manifest_to_json(manifest()).replace('"cpu"', '"a/b"'), r"manifest\.gpu_type"),
        (manifest_to_json(manifest()).replace('"hidden_size": 256,', ""), r"config\.hidden_size"),
    ],
)
def test_a_manifest_that_is_none_is_refused_by_field(text, field):
    with pytest.raises(InvalidInputError, match=field):
        manifest_from_json(text)
