import numpy as np
import pytest

from models.features import FEATURE_NAMES, NUM_FEATURES
from models.report import importance, reliability, rules, training_report
from models.tree import predict, tree_arrays

RHO, BATCH = FEATURE_NAMES.index("rho"), FEATURE_NAMES.index("batch")
TREE = tree_arrays(
    [RHO, BATCH, 0, 0, RHO, 0, 0],
    [1.0, 20.0, 0, 0, 2.0, 0, 0],
    [1, 2, -1, -1, 5, -1, -1],
    [4, 3, -1, -1, 6, -1, -1],
    [0.5, 0.2, 0.1, 0.3, 0.8, 0.7, 0.9],
)


def some_rows(num_rows=400):
    return np.random.default_rng(0).uniform(0.0, 3.0, size=(num_rows, NUM_FEATURES)).astype(np.float32)


def test_rules_tell_every_leaf_with_its_units_and_merge_limits_of_a_feature():
    assert list(rules(TREE)) == [
        ("`rho` at most 1 and `batch` at most 20 requests", 0.1),
        ("`rho` at most 1 and `batch` above 20 requests", 0.3),
        ("`rho` above 1 up to 2", 0.7),
        ("`rho` above 2", 0.9),
    ]


def test_importance_is_the_share_of_decisions_on_the_way_to_a_leaf():
    rows = np.zeros((4, NUM_FEATURES), dtype=np.float32)
    rows[:, RHO] = [0.5, 0.5, 1.5, 2.5]
    shares = importance(TREE, rows)
    assert shares == {"rho": pytest.approx(6 / 8), "batch": pytest.approx(2 / 8)}
    assert list(shares) == ["rho", "batch"]


def test_reliability_puts_every_row_in_one_class_and_tells_what_happened():
    probability = np.array([0.0, 0.01, 0.03, 0.5, 1.0, 1.0])
    starved = np.array([False, False, True, False, True, True])
    table = reliability(probability, starved)
    assert sum(row["rows"] for row in table) == len(probability)
    for row in table:
        assert row["low"] <= row["predicted"] <= row["high"]
    assert table[0] | {"predicted": 0.0} == {
        "low": 0.0,
        "high": 0.02,
        "rows": 2.0,
        "predicted": 0.0,
        "starved": 0.0,
    }
    assert table[-1]["starved"] == 1.0


def test_the_report_prints_figures_reliability_importance_and_one_rule_a_leaf():
    rows = some_rows()
    page = training_report(
        "Title",
        {"tree": {"starvation_f1": 0.97}, "physics": {"starvation_f1": None}},
        reliability(predict(TREE, rows), predict(TREE, rows) > 0.5),
        {"starvation": importance(TREE, rows)},
        {"starvation": TREE},
    )
    assert page.startswith("# Title\n")
    assert "| starvation_f1 | 0.97 | - |" in page
    assert "4. `rho` above 2: it starves in 90.0% of such cases." in page
