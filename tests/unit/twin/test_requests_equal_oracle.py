"""The kernel of requests draws what the plain program draws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.request_oracle import (
    plain_lengths,
    plain_poisson_arrivals,
    plain_renewal_arrivals,
    plain_weibull_shape,
)
from tests.support.twin_cases import num_examples
from twin.kernels import requests as kernel

LAWS = {
    "poisson": kernel.POISSON,
    "gamma": kernel.GAMMA,
    "weibull": kernel.WEIBULL,
    "lognormal": kernel.LOGNORMAL,
    "fixed": kernel.FIXED,
    "reference_lognormal": kernel.REFERENCE_LOGNORMAL,
}
seeds = st.integers(0, 2**32)


def generator(seed):
    return np.random.Generator(np.random.SFC64(seed))


@settings(max_examples=num_examples(60), deadline=None)
@given(st.lists(st.floats(1e-3, 50), min_size=1, max_size=6), st.integers(1, 200), st.integers(1, 100), seeds)
def test_poisson_arrivals_equal_the_plain_ones_whatever_room_they_have(rates, max_requests, capacity, seed):
    weights = np.array(rates)
    keep, alias = kernel.alias_table(weights)
    drawn = kernel.poisson_arrivals(
        generator(seed), float(weights.sum()), keep, alias, 2.0, max_requests, capacity
    )
    plain = plain_poisson_arrivals(generator(seed), weights, 2.0, max_requests, keep, alias)
    assert list(zip(*(column.tolist() for column in drawn), strict=True)) == plain


pieces = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.floats(0, 10),
        st.floats(0, 10),
        st.sampled_from(list(LAWS)),
        st.floats(0.1, 10),
        st.floats(0.05, 5),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=num_examples(60), deadline=None)
@given(pieces, seeds)
def test_renewal_arrivals_are_the_plain_ones(drawn, seed):
    whole = [(owner, start, start + width, *rest) for owner, start, width, *rest in drawn]
    owner, start_s, end_s, laws, rate, cv = zip(*whole, strict=True)
    arrival_ns, owner_of = kernel.renewal_arrivals(
        generator(seed),
        np.array(owner, np.int32),
        np.array(start_s),
        np.array(end_s),
        np.array([LAWS[law] for law in laws], np.int8),
        np.array(rate),
        np.array(cv),
        10_000,
    )
    plain = plain_renewal_arrivals(generator(seed), whole)
    assert owner_of.tolist() == [request[1] for request in plain]
    # Scales are computed in another order there: a few parts in 1e15, and a Weibull shape in 1e12.
    assert arrival_ns.tolist() == pytest.approx([request[0] for request in plain], rel=1e-9, abs=2)


@settings(max_examples=num_examples(60), deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**45), st.integers(0, 9)), max_size=60))
def test_the_radix_sort_is_the_stable_sort(rows):
    arrival_ns = np.array([row[0] for row in rows], np.int64)
    owner = np.array([row[1] for row in rows], np.int32)
    expected = sorted(rows, key=lambda row: row[0])
    sorted_ns, sorted_owner = kernel.sort_by_arrival(arrival_ns, owner)
    assert list(zip(sorted_ns.tolist(), sorted_owner.tolist(), strict=True)) == expected


@settings(max_examples=num_examples(60), deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40).filter(lambda weights: sum(weights) > 0))
def test_an_alias_table_stands_for_its_weights(weights):
    keep, alias = kernel.alias_table(np.array(weights))
    share = np.zeros(len(weights))
    np.add.at(share, np.arange(len(weights)), keep)
    np.add.at(share, alias, 1.0 - keep)
    assert share / len(weights) == pytest.approx(np.array(weights) / sum(weights), abs=1e-9)


@pytest.mark.parametrize("cv", [1e-4, 1e-3, 0.1, 0.7, 1.0, 2.0, 10.0, 100.0])
def test_a_weibull_shape_has_its_coefficient_of_variation(cv):
    expected = plain_weibull_shape(cv) if cv > 1e-3 else np.pi / (6**0.5 * cv)
    assert kernel.weibull_shape(cv) == pytest.approx(expected, rel=2e-3 if cv <= 1e-3 else 1e-7)


length_laws = st.one_of(
    st.tuples(st.just("sharegpt"), st.floats(1, 3000), st.none()),
    st.tuples(st.just("gamma"), st.floats(1, 3000), st.floats(1e-3, 4)),
    st.tuples(
        st.just("quantiles"),
        st.just(1.0),
        st.tuples(
            st.lists(st.integers(1, 99), max_size=4, unique=True).map(
                lambda inner: (0.0, *(level / 100 for level in sorted(inner)), 1.0)
            ),
            st.just((1.0, 5.0, 5.0, 80.0, 400.0, 9000.0)),
        ),
    ),
)


@settings(max_examples=num_examples(60), deadline=None)
@given(
    st.lists(st.tuples(length_laws, length_laws), min_size=1, max_size=3),
    st.lists(st.integers(0, 2), max_size=30),
    st.integers(2, 10_000),
    seeds,
)
def test_lengths_are_the_plain_ones(laws, owners, max_model_len, seed):
    owners = [owner % len(laws) for owner in owners]
    joint = np.random.default_rng(1).random((64, 2)).astype(np.float32) * 3
    codes = np.zeros((len(laws), 2), np.int8)
    mean, cv = np.ones((len(laws), 2)), np.ones((len(laws), 2))
    first_knot, levels, tokens = np.zeros((len(laws), 2, 2), np.int64), [], []
    for row, sides in enumerate(laws):
        for side, (kind, law_mean, more) in enumerate(sides):
            codes[row, side] = ("sharegpt", "gamma", "quantiles").index(kind)
            mean[row, side] = law_mean
            if kind == "gamma":
                cv[row, side] = more
            elif kind == "quantiles":
                first_knot[row, side] = len(levels), len(levels) + len(more[0]) - 1
                levels.extend(more[0])
                tokens.extend(more[1][: len(more[0])])
    drawn = kernel.draw_lengths(
        generator(seed),
        np.array(owners, np.int32),
        joint,
        codes,
        mean,
        cv,
        first_knot,
        np.array(levels),
        np.array(tokens),
        max_model_len,
    )
    plain = plain_lengths(generator(seed), owners, joint, laws, max_model_len)
    assert list(zip(*(column.tolist() for column in drawn), strict=True)) == plain
