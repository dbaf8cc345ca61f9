import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import training
from models.dataset import DatasetOrigin, Design, origin_document, origin_from_json
from models.dataset_files import read_parquet, write_parquet
from models.errors import DatasetError
from models.features import FEATURE_NAMES, aggregate, calibration_vector, features_of
from models.generation import assemble, generate, simulate_rows, write_part
from models.live import (
    LIVE_FIRST,
    MAX_CLASSES,
    AdapterClass,
    LiveServer,
    LiveServers,
    live_features,
    live_scenario,
    live_server,
    live_servers_from,
)
from models.pipeline import held_out, train
from models.scenarios import GROUP_SIZE, MAX_REQUESTS
from tests.support.feature_cases import a_calibration
from tests.support.twin_cases import HAS_JIT
from twin.domain import Adapter, ServerConfig, StepLaw, Workload

pytest.importorskip("pyarrow", reason="pyarrow is of the train extra")

SLOW_STEP = StepLaw(**(dict.fromkeys(StepLaw.__slots__, 0.0) | {"base_ms": 4000.0}))
CALIBRATION = a_calibration(step=SLOW_STEP)
SERVER = ServerConfig(max_loras=2, max_lora_rank=16)


def workload_of(rows):
    adapters = [
        Adapter(
            adapter_id=f"customer-{place}",
            rank=rank,
            rate_rps=rate,
            input_tokens_mean=inputs,
            output_tokens_mean=80.0,
            output_tokens_cv=cv,
        )
        for place, (rank, rate, inputs, cv) in enumerate(rows)
    ]
    return Workload.from_adapters(adapters)


FEW = workload_of([(8, 1e-3, 300.0, None), (16, 2e-3, 200.0, None), (8, 1e-3, 300.0, None)] * 3)
SAMPLE = LiveServers(servers=(live_server(FEW, SERVER),), rows_each=3)
DESIGN = Design(num_rows=6, seed=5, max_adapters=4)


def row_features(workload, server):
    vector = calibration_vector(CALIBRATION)
    return features_of(aggregate(workload), server.max_loras, server.max_lora_rank, vector)[0]


def test_few_kinds_of_adapters_are_kept_as_they_are_and_no_name_is():
    kept = SAMPLE.servers[0]
    assert sorted(one.num_adapters for one in kept.classes) == [3, 6]
    np.testing.assert_allclose(
        row_features(kept.workload(), kept.flags()), row_features(FEW, SERVER), rtol=1e-6
    )
    assert b"customer" not in SAMPLE.to_json()


adapters = st.tuples(
    st.sampled_from([8, 16]),
    st.floats(1e-4, 10.0),
    st.floats(1.0, 4000.0),
    st.one_of(st.none(), st.floats(0.1, 2.0)),
)


@settings(deadline=None)
@given(st.lists(adapters, min_size=1, max_size=120))
def test_many_kinds_become_few_classes_that_offer_the_same(rows):
    whole = workload_of(rows)
    kept = live_server(whole, SERVER)
    assert len(kept.classes) <= MAX_CLASSES
    told = kept.workload()
    assert told.num_adapters == whole.num_adapters
    assert told.rate_rps.sum() == pytest.approx(whole.rate_rps.sum())
    tokens = (told.rate_rps * told.input_tokens_mean).sum()
    assert tokens == pytest.approx((whole.rate_rps * whole.input_tokens_mean).sum())
    assert sorted(told.rank) == sorted(whole.rank)
    assert told.rate_rps.max() <= whole.rate_rps.max() * (1 + 1e-9)


def test_busy_adapters_stay_apart_longest():
    rates = [(8, 1e-3 * (1 + 1e-3 * place), 300.0, None) for place in range(200)] + [(8, 5.0, 300.0, None)]
    kept = live_server(workload_of(rates), SERVER)
    busiest = max(kept.classes, key=lambda one: one.rate_rps)
    assert (busiest.num_adapters, busiest.rate_rps) == (1, 5.0)


def test_the_first_scenario_of_a_server_is_the_server_and_the_others_are_near_it():
    rows = SAMPLE.rows
    assert rows.tolist() == [LIVE_FIRST, LIVE_FIRST + 1, LIVE_FIRST + 2]
    first = live_scenario(CALIBRATION, SAMPLE, 7, LIVE_FIRST)
    assert first.server == SERVER
    np.testing.assert_allclose(aggregate(first.workload), aggregate(FEW))
    drawn = [live_scenario(CALIBRATION, SAMPLE, 7, LIVE_FIRST + number) for number in range(1, 200)]
    rates = np.concatenate([one.workload.rate_rps for one in drawn])
    assert (rates >= 0.5 * FEW.rate_rps.min()).all()
    assert (rates <= 2.0 * FEW.rate_rps.max()).all()
    assert rates.min() < 0.6 * FEW.rate_rps.min()
    assert rates.max() > 1.6 * FEW.rate_rps.max()
    assert {one.workload.num_adapters < FEW.num_adapters for one in drawn} == {False, True}
    assert {one.server.max_loras == SERVER.max_loras for one in drawn} == {False, True}
    assert {one.group for one in drawn} == {LIVE_FIRST // GROUP_SIZE}


def test_a_neighbour_sends_no_more_than_a_run_can_take():
    busy = workload_of([(8, MAX_REQUESTS / 3600.0, 300.0, None)])
    sample = LiveServers(servers=(live_server(busy, SERVER),))
    sent = [
        3600.0 * live_scenario(CALIBRATION, sample, 0, LIVE_FIRST + number).workload.rate_rps.sum()
        for number in range(50)
    ]
    assert max(sent) <= MAX_REQUESTS * (1 + 1e-9)


def test_neighbours_of_a_server_of_many_alike_adapters_have_about_as_many():
    alike = AdapterClass(9000, 8, 1e-6, 300.0, 80.0, None, None, 1.0)
    server = LiveServer(max_loras=2, max_lora_rank=16, max_model_len=None, classes=(alike,))
    sample = LiveServers(servers=(server,))
    counts = [
        live_scenario(CALIBRATION, sample, 0, LIVE_FIRST + number).workload.num_adapters
        for number in range(1, 30)
    ]
    assert 0.9 * 9000 / 1.5 < min(counts) < 9000 < max(counts) < 1.1 * 9000 * 1.5


@pytest.fixture(scope="module")
def dataset():
    return generate(CALIBRATION, replace(DESIGN, live=SAMPLE), num_workers=1)


def test_live_rows_come_last_and_change_none_of_the_others(dataset):
    without = generate(CALIBRATION, DESIGN, num_workers=1)
    assert dataset.num_rows == DESIGN.num_rows + SAMPLE.num_rows
    np.testing.assert_array_equal(dataset.columns[: DESIGN.num_rows], without.columns)
    assert dataset["row"][DESIGN.num_rows :].astype(int).tolist() == SAMPLE.rows.tolist()


def test_a_design_without_live_servers_is_told_as_ever():
    told = origin_document(origin_of(DESIGN))["design"]
    assert told == {"num_rows": 6, "seed": 5, "max_adapters": 4, "active_share": 0.0}


def origin_of(design):
    return DatasetOrigin(calibration_id="c", calibration_sha256="s", twin_version="t", design=design)


def test_the_origin_holds_the_sample_and_makes_the_same_bytes_again(dataset, tmp_path):
    write_parquet(dataset, tmp_path / "one.parquet")
    origin = read_parquet(tmp_path / "one.parquet").origin
    assert origin.design.live == SAMPLE
    again = generate(CALIBRATION, origin.design, num_workers=1)
    write_parquet(again, tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    other = LiveServers(servers=SAMPLE.servers, rows_each=4)
    assert origin_document(origin_of(replace(DESIGN, live=other))) != origin_document(origin)


def test_parts_that_others_simulate_make_the_same_data_set(dataset, tmp_path):
    design = replace(DESIGN, live=SAMPLE)
    while isinstance(missing := assemble(CALIBRATION, design, tmp_path, rows_a_part=2), tuple):
        for rows in missing:
            write_part(CALIBRATION, design, simulate_rows(CALIBRATION, design, rows), tmp_path)
    assert missing.sha256 == dataset.sha256


def test_live_rows_are_learned_from_and_never_held_out(dataset):
    known, unseen = held_out(dataset, CALIBRATION, 0)
    assert (unseen.group < LIVE_FIRST // GROUP_SIZE).all()
    assert (known.group >= LIVE_FIRST // GROUP_SIZE).sum() == SAMPLE.num_rows


def test_a_sample_is_known_by_its_content():
    again = live_servers_from(origin_document(origin_of(replace(DESIGN, live=SAMPLE)))["design"]["live"])
    assert (again, again.digest) == (SAMPLE, SAMPLE.digest)
    assert replace(SAMPLE, rows_each=4).digest != SAMPLE.digest


GOOD = AdapterClass(1, 8, 0.1, 10.0, 10.0, None, None, 1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ()},
        {"classes": (GOOD,) * (MAX_CLASSES + 1)},
        {"max_loras": 0},
        {"classes": (GOOD._replace(num_adapters=0),)},
        {"classes": (GOOD._replace(num_adapters=10**9),)},
        {"classes": (GOOD._replace(rate_rps=0.0),)},
        {"classes": (GOOD._replace(input_tokens_mean=math.nan),)},
    ],
)
def test_a_server_that_cannot_be_is_refused(change):
    flags = {"max_loras": 1, "max_lora_rank": 8, "max_model_len": None, "classes": (GOOD,)}
    with pytest.raises(DatasetError, match="live"):
        LiveServer(**flags | change)


@pytest.mark.parametrize(
    "text",
    [
        b'{"servers": [], "rows_each": 3}',
        b'{"servers": [{"classes": [[1]]}], "rows_each": 3}',
        b'{"servers": 3, "rows_each": 3}',
        b'{"rows_each": 3}',
    ],
)
def test_what_is_no_sample_is_refused(text):
    document = origin_document(origin_of(DESIGN))
    document["design"]["live"] = json.loads(text)
    with pytest.raises(DatasetError):
        origin_from_json(json.dumps(document).encode(), "x")


@pytest.mark.skipif(not HAS_JIT, reason="hundreds of features take long without the compiler")
def test_a_surrogate_taught_from_a_live_server_finds_it_within_its_range(
    monkeypatch,
):
    pytest.importorskip("sklearn", reason="scikit-learn is of the train extra")
    monkeypatch.setattr(
        training, "CANDIDATES", ({"max_iter": 5, "max_leaf_nodes": 4, "min_samples_leaf": 2},)
    )
    rows = [(8, 1e-4 * (1 + place % 40), 300.0 + place, None) for place in range(60)]
    live, server = workload_of(rows), ServerConfig(max_loras=5, max_lora_rank=16)
    design = Design(num_rows=80, seed=5, max_adapters=4)
    found = {}
    for name, sample in (
        ("without", None),
        ("with", LiveServers(servers=(live_server(live, server),))),
    ):
        dataset = generate(CALIBRATION, replace(design, live=sample), num_workers=1)
        taught = train(dataset, CALIBRATION, max_leaves=8)
        found[name] = taught.surrogate.predict(live, server).out_of_range
    assert "num_adapters" in found["without"]
    assert found["with"] == ()


def test_features_of_live_rows_are_those_of_their_scenarios():
    rows = live_features(CALIBRATION, SAMPLE, 7, SAMPLE.rows)
    drawn = live_scenario(CALIBRATION, SAMPLE, 7, LIVE_FIRST + 2)
    np.testing.assert_array_equal(rows[2], row_features(drawn.workload, drawn.server))
    assert rows[0][FEATURE_NAMES.index("num_adapters")] == FEW.num_adapters
