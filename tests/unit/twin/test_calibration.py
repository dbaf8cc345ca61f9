"""Calibrations as files, and the laws they hold as arrays."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.twin_cases import SCHEDULER, STEP, StepSample, calibration, num_examples
from tests.support.twin_oracle import lat_model_ms, lat_sched_us
from tests.unit.twin.test_engine_invariants import SHORT_OF_BLOCKS
from twin.calibration import (
    calibration_from_json,
    calibration_to_json,
    load_calibration,
    shipped_calibration_ids,
)
from twin.domain import LoadLaw, SchedulerLaw, StepLaw
from twin.errors import InvalidInputError, UnknownCalibrationError
from twin.kernels.latency import scheduler_us, step_ms
from twin.latency import load_times_ns, scheduler_coefficients, step_coefficients

coefficients = st.floats(0.001, 1e6)


@settings(max_examples=num_examples(50), deadline=None)
@given(st.lists(coefficients, min_size=len(StepLaw.__slots__), max_size=len(StepLaw.__slots__)))
def test_a_calibration_survives_its_json(values):
    written = calibration(step=StepLaw(**dict(zip(StepLaw.__slots__, values, strict=True))))
    assert calibration_from_json(calibration_to_json(written)) == written


def test_a_calibration_is_found_by_path(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(calibration_to_json(calibration()), encoding="utf-8")
    assert load_calibration(str(path)) == calibration()


def test_a_calibration_that_was_written_anew_is_read_anew(tmp_path):
    path = tmp_path / "mine.json"
    for rank in (16, 32):
        path.write_text(calibration_to_json(calibration(max_known_rank=rank)), encoding="utf-8")
        assert load_calibration(str(path)).max_known_rank == rank


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "mine.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(InvalidInputError) as refusal:
        load_calibration(str(tmp_path / "mine.json"))
    assert refusal.value.field == "calibration"


def test_every_shipped_calibration_loads_under_its_own_id():
    ids = shipped_calibration_ids()
    assert len(ids) >= 2
    assert list(ids) == sorted(ids)
    for calibration_id in ids:
        assert load_calibration(calibration_id).calibration_id == calibration_id


def test_an_unknown_calibration_is_refused_with_the_known_ones():
    with pytest.raises(UnknownCalibrationError, match=shipped_calibration_ids()[0]):
        load_calibration("h100/no-such-model/none")


def document(**changes):
    return json.loads(calibration_to_json(calibration())) | changes


DOCUMENT = document()


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        (document(schema_version=1), "schema_version"),
        (document(colour="red"), "calibration.colour"),
        (document(step=DOCUMENT["step"] | {"extra_ms": 1.0}), "step.extra_ms"),
        (document(step={"base_ms": 1.0}), "step"),
        (document(step=DOCUMENT["step"] | {"decode_ms": -1.0}), "step.decode_ms"),
        (document(step=DOCUMENT["step"] | {"decode_ms": float("nan")}), "step.decode_ms"),
        (document(load=[1, 2]), "load"),
        (document(memory=None), "memory"),
        (document(model=DOCUMENT["model"] | {"head_dim": 0}), "model.head_dim"),
        (document(generated_over_requested=7), "generated_over_requested"),
        (document(generated_over_requested="x"), "generated_over_requested"),
        (document(gpu_type=7), "gpu_type"),
        (document(errors=None), "errors"),
        (document(errors={"step.ms_mape_pct": "x"}), "errors.step.ms_mape_pct"),
        (document(standard_errors={"step.base_ms": float("nan")}), "standard_errors.step.base_ms"),
        ({name: value for name, value in DOCUMENT.items() if name != "gpu_type"}, "calibration"),
        ({name: value for name, value in DOCUMENT.items() if name != "scheduler"}, "scheduler"),
        ([DOCUMENT], "calibration"),
        ("calibration", "calibration"),
        (None, "calibration"),
    ],
)
def test_a_broken_document_is_refused_by_the_name_of_its_field(broken, field):
    with pytest.raises(InvalidInputError) as refusal:
        calibration_from_json(json.dumps(broken))
    assert refusal.value.field == field


@pytest.mark.parametrize("text", ["", "{", calibration_to_json(calibration())[:-20]])
def test_a_truncated_document_is_refused(text):
    with pytest.raises(InvalidInputError) as refusal:
        calibration_from_json(text)
    assert refusal.value.field == "calibration"


# --- The laws.

states = st.builds(
    StepSample,
    num_decodes=st.integers(0, 2048),
    prefill_tokens=st.integers(0, 4096),
    context_tokens=st.integers(0, 10**6),
    num_adapters=st.integers(1, 400),
    num_scanned=st.integers(0, 10**6),
)


def kernel_step_ms(law, sample, max_lora_rank=32, max_loras=48):
    return step_ms(step_coefficients(law), *sample[:4], max_lora_rank, max_loras)


@settings(max_examples=num_examples(50), deadline=None)
@given(states)
def test_the_step_law_is_the_sum_of_its_terms(sample):
    scenario = replace(SHORT_OF_BLOCKS, max_lora_rank=32, max_loras=48)
    assert kernel_step_ms(STEP, sample) == pytest.approx(lat_model_ms(scenario, sample), rel=1e-12)


@settings(max_examples=num_examples(50), deadline=None)
@given(states, st.sampled_from(StepSample._fields[:4]), st.integers(1, 1000))
def test_more_work_never_makes_a_step_shorter(sample, field, more):
    harder = sample._replace(**{field: getattr(sample, field) + more})
    assert kernel_step_ms(STEP, harder) > kernel_step_ms(STEP, sample)


@settings(max_examples=num_examples(50), deadline=None)
@given(states, st.sampled_from(StepLaw.__slots__))
def test_each_coefficient_weighs_one_term(sample, name):
    none = StepLaw(**(dict.fromkeys(StepLaw.__slots__, 0.0) | {"base_ms": 1.0}))
    base_ms = kernel_step_ms(none, sample)
    assert base_ms == 1.0
    once_ms = kernel_step_ms(replace(none, **{name: 2.0}), sample) - base_ms
    twice_ms = kernel_step_ms(replace(none, **{name: 3.0 if name == "base_ms" else 4.0}), sample) - base_ms
    assert once_ms >= 0
    assert twice_ms == pytest.approx(2 * once_ms)


@settings(max_examples=num_examples(50), deadline=None)
@given(st.integers(0, 2048), st.integers(0, 10**6))
def test_the_scheduler_law_is_the_sum_of_its_terms(running, scanned):
    kernel_us = scheduler_us(scheduler_coefficients(SCHEDULER), running, scanned)
    plain_us = lat_sched_us(SCHEDULER, num_requests_running=running, num_scanned=scanned)
    assert kernel_us == pytest.approx(plain_us, rel=1e-12)


def test_coefficients_stand_in_the_order_of_the_laws_fields():
    step = StepLaw(**{name: index + 1.0 for index, name in enumerate(StepLaw.__slots__)})
    scheduler = SchedulerLaw(**{name: index + 1.0 for index, name in enumerate(SchedulerLaw.__slots__)})
    assert step_coefficients(step).tolist() == list(asdict(step).values())
    assert scheduler_coefficients(scheduler).tolist() == list(asdict(scheduler).values())


def test_a_padded_adapter_takes_longer_to_load_and_one_on_disk_longer_still():
    law = LoadLaw(cpu_ms=6.0, cpu_padding_ms=1.0, disk_ms=40.0, disk_rank_ms=2.0)
    cpu_ns, disk_ns = load_times_ns(law, np.array([8, 16, 32], np.int32), 32)
    assert cpu_ns.tolist() == [7_000_000, 7_000_000, 6_000_000]
    assert disk_ns.tolist() == [63_000_000, 79_000_000, 110_000_000]
