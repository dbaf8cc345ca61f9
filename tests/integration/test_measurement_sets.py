"""Measurement sets on disk and in the store."""

import pytest

from service.errors import InvalidRequestError, NotFoundError, StoreUnavailableError
from service.services.measurements import RUNS, MeasurementSets
from service.storage.connection import connect
from service.storage.files import FileExchange
from tests.integration.conftest import make_settings
from tests.support.measured_tables import RUN
from tests.support.measurement_sets import minimal_tables, table


@pytest.fixture
def sets(redis_client, tmp_path):
    return MeasurementSets(FileExchange(tmp_path / "here", redis_client))


def test_the_same_tables_are_one_set_and_another_byte_is_another_set(sets):
    first = sets.add(minimal_tables())
    assert sets.add(minimal_tables()).set_id == first.set_id
    other = sets.add(minimal_tables(**{RUNS: table([RUN, RUN | {"run_id": "r2"}])}))
    assert other.set_id != first.set_id
    assert (other.num_runs, other.base_models) == (2, ("llama-3.1-8b-instruct",))
    assert {first.set_id, other.set_id} <= set(sets.ids())


def test_a_host_that_never_saw_a_set_takes_it_from_the_store(sets, redis_client, tmp_path):
    added = sets.add(minimal_tables())
    elsewhere = MeasurementSets(FileExchange(tmp_path / "there", redis_client))
    found = elsewhere.get(added.set_id)
    assert found.directory != added.directory
    for name, content in minimal_tables().items():
        assert (found.directory / name).read_bytes() == content


def test_without_a_store_a_set_on_disk_is_found_and_a_new_one_is_to_be_given_again(sets, tmp_path):
    added = sets.add(minimal_tables())
    client = connect(make_settings(tmp_path / "no-store"))
    alone = MeasurementSets(FileExchange(tmp_path / "here", client))
    assert alone.get(added.set_id).num_runs == 1
    assert added.set_id in alone.ids()
    with pytest.raises(StoreUnavailableError):
        alone.add(minimal_tables(**{RUNS: table([RUN | {"run_id": "r3"}])}))
    client.close()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"load_times.csv": b"model,source\n"}, "tables.load_times.csv"),
        ({"load_times.csv": table([dict.fromkeys(("model", "source"), "1")])}, "tables.load_times.csv"),
        ({"memory_kv.csv": b"\xff\xfe\x00"}, "tables.memory_kv.csv"),
        ({RUNS: table([RUN | {"max_loras": "none"}])}, "tables.runs.csv line 2, max_loras"),
        ({"model_config.json": b"{"}, "tables"),
        ({"model_config.json": b"{}"}, "tables.model_config.json.num_attention_heads"),
        ({"../evil.csv": b""}, "tables.../evil.csv"),
    ],
)
def test_a_table_that_no_fit_could_read_is_refused_by_name(sets, changes, field):
    with pytest.raises(InvalidRequestError) as refused:
        sets.add(minimal_tables(**changes))
    assert refused.value.field == field


def test_a_set_without_a_table_is_refused(sets):
    tables = minimal_tables()
    del tables["memory_kv.csv"]
    with pytest.raises(InvalidRequestError, match="is missing") as refused:
        sets.add(tables)
    assert refused.value.field == "tables.memory_kv.csv"


@pytest.mark.parametrize("set_id", ["0" * 24, "../../etc", ""])
def test_an_unknown_set_is_not_found(sets, set_id):
    with pytest.raises(NotFoundError):
        sets.get(set_id)


def test_a_half_written_directory_is_no_set(sets, tmp_path):
    added = sets.add(minimal_tables())
    (tmp_path / "here" / "measurements" / f".{'1' * 24}.aside").mkdir()
    assert all(not name.startswith(".") for name in sets.ids())
    assert added.set_id in sets.ids()
