import json

import numpy as np
import pytest

from models.dataset import COLUMNS, Dataset, DatasetOrigin, Design
from models.dataset_files import read_parquet, write_parquet
from models.errors import DatasetError
from models.features import FEATURE_NAMES, NUM_AGGREGATES, aggregate
from models.generation import generate
from models.scenarios import GROUP_SIZE, scenario
from tests.support.feature_cases import a_calibration
from tests.support.twin_cases import HAS_JIT
from twin.calibration import calibration_sha256
from twin.domain import StepLaw
from twin.simulate import TWIN_VERSION

pytest.importorskip("pyarrow", reason="pyarrow is of the train extra")

# A slow server: few steps in an hour, so that the twin is quick even without Numba's compiler.
SLOW_STEP = StepLaw(**(dict.fromkeys(StepLaw.__slots__, 0.0) | {"base_ms": 4000.0}))
CALIBRATION = a_calibration(step=SLOW_STEP)
NUM_ROWS = 6


@pytest.fixture(scope="module")
def dataset():
    return generate(CALIBRATION, Design(num_rows=NUM_ROWS, seed=5, max_adapters=4), num_workers=1)


def test_a_row_holds_its_scenario_and_what_the_twin_said(dataset):
    assert dataset.num_rows == NUM_ROWS
    for row in range(NUM_ROWS):
        drawn = scenario(CALIBRATION, 5, row, max_adapters=4)
        assert dataset["row"][row] == row
        assert dataset["group"][row] == drawn.group
        assert dataset["max_loras"][row] == drawn.server.max_loras
        np.testing.assert_array_equal(dataset.columns[row, -NUM_AGGREGATES:], aggregate(drawn.workload))
    assert (dataset["throughput_tok_s"] <= dataset["offered_tok_s"]).all()
    starved = dataset["throughput_tok_s"] < 0.9 * dataset["offered_tok_s"]
    np.testing.assert_array_equal(dataset["starved"], starved)


def test_the_first_rows_of_a_longer_data_set_are_those_of_a_shorter_one(dataset):
    shorter = generate(CALIBRATION, Design(num_rows=2, seed=5, max_adapters=4), num_workers=1)
    np.testing.assert_array_equal(shorter.columns, dataset.columns[:2])


def test_the_same_seed_gives_the_same_bytes(dataset, tmp_path):
    again = generate(CALIBRATION, Design(num_rows=NUM_ROWS, seed=5, max_adapters=4), num_workers=1)
    assert again.sha256 == dataset.sha256
    for name, table in (("one", dataset), ("two", again)):
        write_parquet(table, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.skipif(not HAS_JIT, reason="worker processes compile nothing when the compiler is off")
def test_the_number_of_processes_changes_nothing(dataset):
    again = generate(CALIBRATION, Design(num_rows=NUM_ROWS, seed=5, max_adapters=4), num_workers=2)
    assert again.sha256 == dataset.sha256


def test_another_seed_gives_another_data_set(dataset):
    other = generate(CALIBRATION, Design(num_rows=2, seed=6, max_adapters=4), num_workers=1)
    assert not np.array_equal(other.columns, dataset.columns[:2])


def test_progress_counts_every_row():
    counts = []
    generate(CALIBRATION, Design(num_rows=3, seed=5, max_adapters=4), num_workers=1, on_rows=counts.append)
    assert sum(counts) == 3


def test_what_is_read_is_what_was_written(dataset, tmp_path):
    path = tmp_path / "new" / "runs.parquet"
    write_parquet(dataset, path)
    loaded = read_parquet(path)
    assert loaded.origin == dataset.origin
    assert loaded.sha256 == dataset.sha256
    assert [entry.name for entry in path.parent.iterdir()] == ["runs.parquet"]


def test_the_origin_names_calibration_twin_and_seed(dataset):
    assert dataset.origin == DatasetOrigin(
        calibration_id=CALIBRATION.calibration_id,
        calibration_sha256=calibration_sha256(CALIBRATION),
        twin_version=TWIN_VERSION,
        design=Design(num_rows=NUM_ROWS, seed=5, max_adapters=4),
    )


def test_features_are_computed_by_the_one_definition(dataset):
    rows, physics = dataset.features(CALIBRATION)
    assert np.isfinite(rows).all()
    assert np.isfinite(physics).all()
    np.testing.assert_allclose(rows[:, FEATURE_NAMES.index("max_loras")], dataset["max_loras"])


def test_a_file_that_is_no_data_set_is_refused(tmp_path):
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 but not really")
    with pytest.raises(DatasetError, match=r"x\.parquet"):
        read_parquet(path)
    pq.write_table(pa.table({"a": [1.0]}), path)
    with pytest.raises(DatasetError, match="is not a data set of twin runs"):
        read_parquet(path)
    with pytest.raises(DatasetError, match=r"absent\.parquet"):
        read_parquet(tmp_path / "absent.parquet")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema_version": 99}, "schema version 99"),
        ({"design": {"num_rows": 7}}, "has 6 rows"),
        ({"design": {"num_rows": 0}}, "num_rows: must be >= 1"),
        ({"colour": "red"}, "is not a data set"),
    ],
)
def test_metadata_that_does_not_agree_is_refused(dataset, tmp_path, change, reason):
    import pyarrow.parquet as pq  # noqa: PLC0415

    path = tmp_path / "runs.parquet"
    write_parquet(dataset, path)
    table = pq.read_table(path)
    document = json.loads(table.schema.metadata[b"loadmaster"]) | change
    pq.write_table(table.replace_schema_metadata({b"loadmaster": json.dumps(document)}), path)
    with pytest.raises(DatasetError, match=reason):
        read_parquet(path)


def test_a_missing_column_is_refused(dataset, tmp_path):
    import pyarrow.parquet as pq  # noqa: PLC0415

    path = tmp_path / "runs.parquet"
    write_parquet(dataset, path)
    pq.write_table(pq.read_table(path).drop_columns(["starved"]), path)
    with pytest.raises(DatasetError, match="columns"):
        read_parquet(path)


def test_a_column_of_words_is_refused(dataset, tmp_path):
    import pyarrow.parquet as pq  # noqa: PLC0415

    path = tmp_path / "runs.parquet"
    write_parquet(dataset, path)
    table = pq.read_table(path)
    place = COLUMNS.index("starved")
    pq.write_table(table.set_column(place, "starved", [["no"] * dataset.num_rows]), path)
    with pytest.raises(DatasetError, match="something else than numbers"):
        read_parquet(path)


def test_what_cannot_be_written_leaves_what_was_there_and_nothing_beside_it(dataset, tmp_path):
    (tmp_path / "runs.parquet").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_parquet(dataset, tmp_path / "runs.parquet")
    assert [entry.name for entry in tmp_path.iterdir()] == ["runs.parquet"]


def test_a_column_is_found_by_its_name(dataset):
    table = Dataset(origin=dataset.origin, columns=np.arange(float(len(COLUMNS)))[None, :])
    assert [float(table[name][0]) for name in COLUMNS] == list(range(len(COLUMNS)))


ACTIVE = Design(num_rows=24, seed=5, max_adapters=4, active_share=0.5)


@pytest.fixture(scope="module")
def active_dataset():
    return generate(CALIBRATION, ACTIVE, num_workers=1)


def test_active_rows_follow_the_designs_first_rows_and_are_candidates_of_their_round(active_dataset):
    rows = active_dataset["row"].astype(int)
    assert rows[: ACTIVE.num_first].tolist() == list(range(ACTIVE.num_first))
    first = ACTIVE.num_first
    for candidates, count in ACTIVE.rounds():
        chosen = rows[first : first + count]
        assert set(chosen) <= set(candidates)
        assert (np.diff(chosen) > 0).all()
        first += count
    assert first == ACTIVE.num_rows
    assert rows.max() < ACTIVE.next_row
    assert ACTIVE.next_row % GROUP_SIZE == 0


def test_a_killed_generation_goes_on_where_it_was_and_ends_in_the_same_bytes(active_dataset, tmp_path):
    class KilledError(Exception):
        pass

    def kill(_count):
        done.append(_count)
        if sum(done) >= ACTIVE.num_first + 4:
            raise KilledError

    done: list[int] = []
    with pytest.raises(KilledError):
        generate(CALIBRATION, ACTIVE, num_workers=1, parts=tmp_path, on_rows=kill)
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.parquet")}
    assert kept
    again = generate(CALIBRATION, ACTIVE, num_workers=1, parts=tmp_path)
    assert again.sha256 == active_dataset.sha256
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in kept} == kept


def test_parts_of_another_data_set_are_made_anew(dataset, tmp_path):
    generate(CALIBRATION, Design(num_rows=2, seed=6, max_adapters=4), num_workers=1, parts=tmp_path)
    design = Design(num_rows=NUM_ROWS, seed=5, max_adapters=4)
    again = generate(CALIBRATION, design, num_workers=1, parts=tmp_path)
    assert again.sha256 == dataset.sha256


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_rows": 0}, "num_rows"),
        ({"max_adapters": 0}, "max_adapters"),
        ({"seed": -1}, "seed"),
        ({"active_share": 1.0}, "active_share"),
    ],
)
def test_a_design_that_makes_no_sense_names_its_field(change, reason):
    with pytest.raises(DatasetError, match=reason):
        Design(**({"num_rows": 5} | change))
