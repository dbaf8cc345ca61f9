"""The gate: what may be published."""

import pytest

from service.services.gate import RULES, judge

GOOD = {
    "held_out": {
        "throughput_smape_half_pct": 2.0,
        "itl_smape_half_pct": 3.0,
        "ttft_smape_half_pct": 18.0,
        "starvation_f1": 0.96,
    },
    "twin": {
        "throughput_smape_half_pct": 0.7,
        "itl_smape_half_pct": 4.0,
        "starvation_accuracy": 0.99,
    },
    "measured": {
        "throughput_smape_half_pct": 1.7,
        "itl_smape_half_pct": 5.0,
        "starvation_f1": 0.98,
        "fits_accuracy": 1.0,
    },
}


def changed(on, figure, value):
    return GOOD | {on: GOOD[on] | {figure: value}}


def worse(rule, by):
    """GOOD, but for one figure that is worse by so much."""
    value = GOOD[rule.on][rule.figure]
    return changed(rule.on, rule.figure, value - by if rule.higher_is_better else value + by)


def test_an_equal_candidate_is_published():
    verdict = judge(GOOD, GOOD)
    assert verdict.passed
    assert len(verdict.checks) == len(RULES)


def test_a_first_candidate_is_published_by_the_limits_alone():
    assert judge(GOOD, None).passed


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.on}-{rule.figure}")
def test_a_figure_may_be_worse_by_its_margin_and_no_more(rule):
    assert judge(worse(rule, 0.99 * rule.margin), GOOD).passed
    verdict = judge(worse(rule, 1.01 * rule.margin), GOOD)
    assert not verdict.passed
    assert [check.figure for check in verdict.checks if not check.passed] == [rule.figure]
    assert "in force" in verdict.reason


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.on}-{rule.figure}")
def test_a_figure_beyond_its_limit_is_refused_whatever_is_in_force(rule):
    beyond = rule.limit - 0.001 if rule.higher_is_better else rule.limit + 0.001
    bad = changed(rule.on, rule.figure, beyond)
    verdict = judge(bad, bad)
    assert not verdict.passed
    assert "limit" in verdict.reason
    assert not judge(bad, None).passed


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.on}-{rule.figure}")
def test_slack_widens_margins_and_limits(rule):
    beyond = 1.0 - 1.5 * (1.0 - rule.limit) if rule.higher_is_better else 1.5 * rule.limit
    assert judge(changed(rule.on, rule.figure, beyond), None, slack=2.0).passed
    assert judge(worse(rule, 1.5 * rule.margin), GOOD, slack=2.0).passed


def test_what_cannot_be_measured_is_refused_where_something_is_in_force():
    silent = changed("measured", "starvation_f1", None)
    assert judge(silent, None).passed
    assert not judge(silent, GOOD).passed
