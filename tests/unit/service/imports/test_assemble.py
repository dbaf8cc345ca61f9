"""From what sources tell to a workload document."""

import pytest

from service.errors import ImportSourceError
from service.imports.assemble import Guesses, assemble
from service.imports.observations import Observations, Seen
from tests.support.peft_folders import LLAMA_ON_THE_HUB

LLAMA = Guesses(base_model="llama-3.1-8b-instruct", gpu_type="h100-64gb")


def told(source="log", window_s=3600.0, base_model=None, **adapters):
    return Observations(source=source, adapters=adapters, window_s=window_s, base_model=base_model)


def ranks(**adapters):
    seen = {name: Seen(rank=rank) for name, rank in adapters.items()}
    return told("peft", None, LLAMA_ON_THE_HUB, **seen)


def rows(imported):
    return {row["id"]: row for row in imported.document["adapters"]}


def test_ranks_of_one_source_meet_rates_of_another():
    log = told(a=Seen(rate_rps=0.5, input_tokens_mean=100, output_tokens_mean=50))
    imported = assemble([ranks(a=16), log], Guesses())
    assert rows(imported)["a"] == {
        "id": "a",
        "rank": 16,
        "rate_rps": 0.5,
        "input_tokens_mean": 100,
        "output_tokens_mean": 50,
    }
    assert imported.document["base_model"] == "llama-3.1-8b-instruct"
    assert imported.document["gpu_type"] == "h100-64gb"


def test_the_first_source_counts_and_the_other_word_is_counted_as_dropped():
    imported = assemble([told("x", a=Seen(rank=8, rate_rps=1)), told("y", a=Seen(rank=8, rate_rps=2))], LLAMA)
    assert rows(imported)["a"]["rate_rps"] == 1
    assert imported.dropped == {"y: rate_rps that an earlier source tells": 1}


def test_an_adapter_without_a_request_gets_one_a_window_and_is_counted():
    imported = assemble([ranks(a=8, b=8), told(a=Seen(rate_rps=1))], Guesses())
    assert rows(imported)["b"]["rate_rps"] == pytest.approx(1 / 3600, rel=1e-5)
    assert any("without a request" in what and count == 1 for what, count in imported.guessed.items())


def test_adapters_without_a_request_may_be_left_out():
    imported = assemble([ranks(a=8, b=8), told(a=Seen(rate_rps=1))], Guesses(unseen_rate_rps=0))
    assert set(rows(imported)) == {"a"}
    assert imported.dropped == {"adapters without a request": 1}


def test_ranks_alone_are_no_workload():
    with pytest.raises(ImportSourceError, match="--unseen-rate-rps"):
        assemble([ranks(a=8)], Guesses())
    assert rows(assemble([ranks(a=8)], Guesses(unseen_rate_rps=0.1)))["a"]["rate_rps"] == 0.1


def test_rates_alone_need_a_rank():
    with pytest.raises(ImportSourceError, match="--rank"):
        assemble([told(a=Seen(rate_rps=1))], LLAMA)


def test_a_name_that_no_folder_holds_is_left_out_unless_a_rank_is_given():
    sources = [ranks(a=8), told(a=Seen(rate_rps=1), base=Seen(rate_rps=5))]
    imported = assemble(sources, Guesses())
    assert set(rows(imported)) == {"a"}
    assert any("(base)" in reason for reason in imported.dropped)
    assert set(rows(assemble(sources, Guesses(rank=16)))) == {"a", "base"}


@pytest.mark.parametrize("name", ["bad\nname", "x" * 257, ""])
def test_a_name_that_no_workload_takes_is_left_out(name):
    log = told(**{name: Seen(rank=8, rate_rps=1)}, a=Seen(rank=8, rate_rps=1))
    imported = assemble([log], LLAMA)
    assert set(rows(imported)) == {"a"}
    assert sum(imported.dropped.values()) == 1


def test_the_base_model_and_excluded_names_are_no_adapters():
    names = {LLAMA_ON_THE_HUB: Seen(rank=8, rate_rps=1), "proxy-check": Seen(rank=8, rate_rps=1)}
    sources = [ranks(a=8), told(**names, a=Seen(rate_rps=1))]
    imported = assemble(sources, Guesses(exclude=frozenset({"proxy-check"})))
    assert set(rows(imported)) == {"a"}
    assert sum(imported.dropped.values()) == 2


def test_unknown_lengths_are_the_others_mean_weighted_by_rate():
    log = told(
        a=Seen(rank=8, rate_rps=3, input_tokens_mean=100),
        b=Seen(rank=8, rate_rps=1, input_tokens_mean=500),
        c=Seen(rank=8, rate_rps=1),
    )
    imported = assemble([log], LLAMA)
    assert rows(imported)["c"]["input_tokens_mean"] == 200
    assert rows(imported)["c"]["output_tokens_mean"] == 197  # nobody's is known
    assert imported.guessed == {
        "input_tokens_mean 200, mean of the others": 1,
        "output_tokens_mean 197, ShareGPT's mean": 3,
    }


def test_a_base_model_that_is_not_calibrated_is_named():
    with pytest.raises(ImportSourceError, match="mistralai/Mistral-7B is not calibrated"):
        assemble([told(base_model="mistralai/Mistral-7B", a=Seen(rank=8, rate_rps=1))], Guesses())
    with pytest.raises(ImportSourceError, match="--base-model"):
        assemble([told(a=Seen(rank=8, rate_rps=1))], Guesses())
    named = told(base_model="Qwen/Qwen2.5-7B-Instruct", a=Seen(rank=8, rate_rps=1))
    assert assemble([named], Guesses()).document["base_model"] == "qwen-2.5-7b-instruct"
