import numpy as np
import pytest

from models.coverage import NEAR_BY, Coverage, coverage_from_bytes, places_of
from models.errors import ArtefactError
from models.features import FEATURE_NAMES, NUM_FEATURES


def rows_with(**features):
    row = np.ones((1, NUM_FEATURES), dtype=np.float32)
    for name, value in features.items():
        row[0, FEATURE_NAMES.index(name)] = value
    return row


def coverage_of(*rows, weight=1.0):
    places = places_of(np.concatenate(rows))
    return Coverage(places=places, weight=np.full(len(places), weight, dtype=np.float32))


def test_a_run_is_near_within_a_factor_of_two_in_every_feature_that_counts():
    known = coverage_of(rows_with())
    for name in NEAR_BY:
        for factor, is_near in ((1.9, 1.0), (0.51, 1.0), (2.1, 0.0), (0.49, 0.0)):
            assert known.near(rows_with(**{name: factor})[0]) == is_near
    assert known.near(rows_with(step_ms=100.0)[0]) == 1.0
    assert known.near(rows_with(rho=1.5, num_adapters=3.0)[0]) == 0.0


def test_a_row_counts_for_the_runs_that_it_stands_for():
    assert coverage_of(rows_with(), rows_with(), rows_with(rho=9.0), weight=3.0).near(rows_with()[0]) == 6.0


def test_what_is_read_is_what_was_written_and_nothing_else_is_taken():
    known = coverage_of(rows_with(), rows_with(rho=0.0))
    again = coverage_from_bytes(known.to_bytes(), "file")
    np.testing.assert_array_equal(again.places, known.places)
    np.testing.assert_array_equal(again.weight, known.weight)
    short = Coverage(places=known.places, weight=known.weight[:1])
    for content in (b"", b"PK nothing", short.to_bytes()):
        with pytest.raises(ArtefactError, match="file"):
            coverage_from_bytes(content, "file")
