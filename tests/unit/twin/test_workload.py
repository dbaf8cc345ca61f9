"""Request streams: the laws that drawn arrivals and lengths keep."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.twin_cases import HAS_JIT, num_examples
from twin.domain import MAX_TOKENS, Adapter, Workload
from twin.errors import InvalidInputError
from twin.lengths import lengths_of, sharegpt_lengths
from twin.workload import RequestStream, generate_requests

HORIZON_S = 1000.0


def one_adapter(**changes):
    values = {"adapter_id": "a", "rank": 8, "rate_rps": 20.0, "input_tokens_mean": 200.0}
    return Adapter(**(values | {"output_tokens_mean": 150.0} | changes))


def stream(*adapters, horizon_s=HORIZON_S, seed=0, max_model_len=MAX_TOKENS):
    workload = Workload.from_adapters(adapters)
    return generate_requests(workload, horizon_s=horizon_s, seed=seed, max_model_len=max_model_len)


# --- Determinism.

COLUMNS = ("arrival_ns", "adapter_of", "prompt_tokens", "output_tokens")


def bytes_of(requests):
    return [getattr(requests, name).tobytes() for name in COLUMNS]


def test_the_same_seed_gives_the_same_bytes():
    mixed = (one_adapter(), one_adapter(adapter_id="b", arrival_cv=3.0, input_tokens_cv=0.5))
    assert bytes_of(stream(*mixed, seed=5)) == bytes_of(stream(*mixed, seed=5))
    assert bytes_of(stream(*mixed, seed=5)) != bytes_of(stream(*mixed, seed=6))


def test_threads_side_by_side_draw_what_one_draws_alone():
    mixed = (one_adapter(), one_adapter(adapter_id="b", arrival_cv=3.0, input_tokens_cv=0.5))
    alone = [bytes_of(stream(*mixed, horizon_s=100.0, seed=seed)) for seed in range(8)]
    with ThreadPoolExecutor(max_workers=4) as pool:
        together = list(pool.map(lambda seed: bytes_of(stream(*mixed, horizon_s=100.0, seed=seed)), range(8)))
    assert together == alone


# --- Arrivals.


def test_a_poisson_stream_has_as_many_requests_as_its_rate_says():
    count = stream(one_adapter()).num_requests
    assert abs(count - 20_000) < 5 * 20_000**0.5


def test_a_poisson_stream_has_exponential_gaps():
    gaps_s = np.diff(stream(one_adapter()).arrival_ns) * 1e-9
    assert gaps_s.mean() == pytest.approx(1 / 20, rel=0.04)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(1, rel=0.05)
    assert np.median(gaps_s) == pytest.approx(np.log(2) / 20, rel=0.05)


@pytest.mark.parametrize("arrival_cv", [0.0, 0.3, 2.0, 4.0])
def test_the_gaps_have_the_coefficient_of_variation_asked_for(arrival_cv):
    requests = stream(one_adapter(rate_rps=100.0, arrival_cv=arrival_cv))
    gaps_s = np.diff(requests.arrival_ns) * 1e-9
    realised = gaps_s.std() / gaps_s.mean()
    assert realised == pytest.approx(arrival_cv, rel=0.1, abs=1e-6)
    standard_error = arrival_cv * requests.num_requests**0.5
    assert abs(requests.num_requests - 100_000) <= 5 * standard_error + 1


def test_a_bursty_stream_is_stationary_from_the_start():
    adapters = [one_adapter(adapter_id=str(row), rate_rps=1.0, arrival_cv=3.0) for row in range(400)]
    arrival_s = stream(*adapters, horizon_s=20.0).arrival_ns * 1e-9
    thirds = np.histogram(arrival_s, bins=4, range=(0, 20))[0]
    # 400 renewal processes of rate 1 and cv 3: a quarter holds 2000 requests give or take 5 x sd.
    assert np.abs(thirds - 2000).max() < 5 * (2000 * 9) ** 0.5


@pytest.mark.parametrize("arrival_cv", [1.0, 0.5])
def test_every_adapter_gets_its_own_rate(arrival_cv):
    rates = [0.5, 4.0, 16.0, 64.0]
    adapters = [one_adapter(adapter_id=str(rate), rate_rps=rate, arrival_cv=arrival_cv) for rate in rates]
    counts = np.bincount(stream(*adapters).adapter_of, minlength=4)
    for count, rate in zip(counts, rates, strict=True):
        assert abs(count - rate * HORIZON_S) < 5 * (rate * HORIZON_S) ** 0.5


@pytest.mark.parametrize("arrival_cv", [1.0, 0.5])
def test_a_rate_too_small_for_any_request_gives_an_empty_stream(arrival_cv):
    assert stream(one_adapter(rate_rps=5e-324, arrival_cv=arrival_cv)).num_requests == 0


def test_owners_of_poisson_arrivals_are_independent_of_time():
    adapters = [one_adapter(adapter_id=str(row), rate_rps=10.0) for row in range(2)]
    owners = stream(*adapters).adapter_of.astype(float)
    followers = np.corrcoef(owners[:-1], owners[1:])[0, 1]
    assert abs(followers) < 5 / owners.shape[0] ** 0.5


@settings(max_examples=num_examples(60), deadline=None)
@given(
    st.lists(
        st.builds(
            one_adapter,
            rate_rps=st.floats(1e-3, 20),
            input_tokens_mean=st.floats(1, MAX_TOKENS),
            output_tokens_mean=st.floats(1, MAX_TOKENS),
            input_tokens_cv=st.none() | st.floats(0, 100),
            output_tokens_cv=st.none() | st.floats(0, 100),
            arrival_cv=st.just(1.0) | st.floats(0, 100),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(2, MAX_TOKENS),
    st.integers(0, 2**32),
)
def test_any_workload_gives_a_sorted_stream_of_requests_that_the_model_takes(rows, max_model_len, seed):
    adapters = [
        one_adapter(
            **{name: getattr(row, name) for name in Adapter.__slots__ if name != "adapter_id"},
            adapter_id=str(index),
        )
        for index, row in enumerate(rows)
    ]
    requests = stream(*adapters, horizon_s=10.0, seed=seed, max_model_len=max_model_len)
    if requests.num_requests == 0:
        return
    assert requests.arrival_ns.min() >= 0
    assert requests.arrival_ns.max() < 10 * 10**9
    assert (np.diff(requests.arrival_ns) >= 0).all()
    assert set(requests.adapter_of.tolist()) <= set(range(len(adapters)))
    assert requests.prompt_tokens.min() >= 1
    assert requests.output_tokens.min() >= 1
    assert (requests.prompt_tokens.astype(np.int64) + requests.output_tokens).max() <= max_model_len


def test_a_window_with_too_many_requests_is_refused():
    with pytest.raises(InvalidInputError, match="2e7") as refusal:
        stream(one_adapter(rate_rps=1e6), horizon_s=100.0)
    assert refusal.value.field == "rate_rps"


# --- Lengths.


def test_sharegpt_shapes_have_mean_one_and_the_measured_variation():
    prompts, outputs = sharegpt_lengths()
    for shape in (prompts, outputs):
        assert shape.mean() == pytest.approx(1)
        assert shape.min() > 0
    # Means of 221 and 196 tokens; standard deviations of 246 and 205.
    assert prompts.std() == pytest.approx(beta_sd(0.40, 1.48, 1020) / (4 + 1020 * 0.40 / 1.88), rel=0.01)
    assert outputs.std() == pytest.approx(205 / 196, rel=0.03)


def test_long_answers_go_with_short_prompts_as_measured():
    prompts, outputs = sharegpt_lengths()
    prompt_tokens, output_tokens = 223 * prompts, 195 * outputs
    # A request holds its prompt and, on average over its life, half of its answer.
    held = (output_tokens * (prompt_tokens + output_tokens / 2)).mean() / output_tokens.mean()
    assert held == pytest.approx(360, rel=0.05)
    assert np.corrcoef(prompts, outputs)[0, 1] < 0


def test_the_lengths_of_one_request_are_drawn_together():
    requests = stream(one_adapter(rate_rps=100.0))
    drawn = np.corrcoef(requests.prompt_tokens, requests.output_tokens)[0, 1]
    assert drawn == pytest.approx(np.corrcoef(*sharegpt_lengths())[0, 1], abs=0.02)


def beta_sd(alpha, beta, width):
    return width * (alpha * beta / (alpha + beta + 1)) ** 0.5 / (alpha + beta)


def test_lengths_without_a_variation_have_their_mean_and_the_shape_of_sharegpt():
    requests = stream(one_adapter(rate_rps=100.0, input_tokens_mean=223.0, output_tokens_mean=195.0))
    columns = (requests.prompt_tokens, requests.output_tokens)
    for tokens, mean, shape in zip(columns, (223.0, 195.0), sharegpt_lengths(), strict=True):
        standard_error = mean * shape.std() / tokens.shape[0] ** 0.5
        assert abs(tokens.mean() - mean) < 5 * standard_error
        assert tokens.std() == pytest.approx(mean * shape.std(), rel=0.02)


@pytest.mark.parametrize("cv", [0.1, 0.5, 1.0, 1.5])
def test_lengths_have_the_mean_and_the_variation_asked_for(cv):
    adapter = one_adapter(
        rate_rps=100.0,
        input_tokens_mean=3000,
        output_tokens_mean=800,
        input_tokens_cv=cv,
        output_tokens_cv=cv,
    )
    requests = stream(adapter)
    for tokens, mean in ((requests.prompt_tokens, 3000), (requests.output_tokens, 800)):
        assert abs(tokens.mean() - mean) < 5 * mean * cv / tokens.shape[0] ** 0.5 + 0.5
        assert tokens.std() / tokens.mean() == pytest.approx(cv, rel=0.03)


@pytest.mark.parametrize(
    ("mean", "cv", "most_pct"),
    [(20, None, 0.5), (20, 0.5, 0.2), (20, 1.0, 0.2), (20, 2.0, 2.0), (200, None, 0.2), (200, 2.0, 0.4)],
)
def test_rounding_moves_a_mean_by_little(mean, cv, most_pct):
    adapter = one_adapter(
        input_tokens_mean=mean, output_tokens_mean=mean, input_tokens_cv=cv, output_tokens_cv=cv
    )
    count = 2_000_000 if HAS_JIT else 20_000
    lengths = lengths_of(
        Workload.from_adapters([adapter]),
        np.zeros(count, np.int32),
        np.random.Generator(np.random.SFC64(1)),
        max_model_len=MAX_TOKENS,
    )
    for tokens in lengths:
        error = 4 * tokens.std() / count**0.5
        assert abs(tokens.mean() - mean) < mean * most_pct / 100 + error


def test_a_variation_of_zero_gives_one_length():
    requests = stream(
        one_adapter(input_tokens_mean=90_000, output_tokens_mean=7, input_tokens_cv=0, output_tokens_cv=0)
    )
    assert set(requests.prompt_tokens.tolist()) == {90_000}
    assert set(requests.output_tokens.tolist()) == {7}


def test_prompt_and_output_are_cut_to_the_longest_request_of_the_model():
    requests = stream(one_adapter(input_tokens_mean=500.0, output_tokens_mean=500.0), max_model_len=600)
    assert (requests.prompt_tokens + requests.output_tokens).max() == 600
    assert requests.prompt_tokens.max() == 599


def test_a_heavy_tailed_length_is_cut_rather_than_wrapped():
    adapter = one_adapter(
        rate_rps=100.0, input_tokens_mean=1e6, output_tokens_mean=1e6, input_tokens_cv=90, output_tokens_cv=90
    )
    requests = stream(adapter)
    assert requests.prompt_tokens.max() == MAX_TOKENS - 1


def test_lengths_of_one_adapter_do_not_depend_on_the_others_means():
    def second(mean):
        requests = stream(
            one_adapter(input_tokens_mean=mean), one_adapter(adapter_id="b", input_tokens_mean=50.0)
        )
        return requests.prompt_tokens[requests.adapter_of == 1].tolist()

    assert second(100.0) == second(900.0)


# --- Streams given by a caller.


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("arrival_ns", [5, 4]),
        ("arrival_ns", [-1, 4]),
        ("adapter_of", [0, -1]),
        ("adapter_of", [0]),
        ("prompt_tokens", [1, 0]),
        ("output_tokens", [0, 1]),
        ("output_tokens", [1, 1, 1]),
    ],
)
def test_a_stream_names_the_column_that_is_wrong(column, values):
    columns = {name: np.ones(2, np.int64) for name in COLUMNS}
    with pytest.raises(InvalidInputError) as refusal:
        RequestStream(**(columns | {column: np.array(values)}))
    assert refusal.value.field == column
