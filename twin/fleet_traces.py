"""Traces that name no adapters, laid over a workload: replicated, owners drawn, hours split.

The published recipe for fleets of several GPUs: replicate a trace's arrivals, draw an adapter for
each request, estimate each adapter's rate from the first hour, judge a plan on the second.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from twin.errors import InvalidInputError
from twin.lengths import lengths_of
from twin.traces import Trace, as_stream
from twin.traffic import MAX_TOKENS
from twin.workload import RequestStream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from twin.domain import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRecipe:
    """How a trace becomes the requests of a fleet.

    Attributes
    ----------
    copies
        Requests for each one of the trace, at the same moment, >= 1.
    estimate_s
        Rates are estimated on the trace's first so many seconds, > 0.
    judge_s
        A plan is judged on so many seconds after them, > 0.
    trace_lengths
        Whether lengths are the trace's; else they are drawn by the adapters' laws.
    seed
        Of owners and lengths.
    """

    copies: int = 1
    estimate_s: float = 3600.0
    judge_s: float = 3600.0
    trace_lengths: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise InvalidInputError("copies", f"must be >= 1, got {self.copies!r}")
        for name in ("estimate_s", "judge_s"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise InvalidInputError(name, f"must be finite and > 0, got {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FleetCase:
    """What a planner may know, and what then happens.

    Attributes
    ----------
    known
        The workload with rates (and, with the trace's lengths, means) estimated before.
    requests
        The stream to judge a plan on, from its first second.
    num_estimated, num_after
        Requests that the estimates rest on; requests after the judged window, left out.
    """

    known: Workload
    requests: RequestStream
    num_estimated: int
    num_after: int


def replicate(trace: Trace, copies: int) -> Trace:
    """Return the trace with each request `copies` times, at the same moment, one behind another."""
    ids = trace.adapter_ids
    return Trace(
        arrival_ns=np.repeat(trace.arrival_ns, copies),
        prompt_tokens=np.repeat(trace.prompt_tokens, copies),
        output_tokens=np.repeat(trace.output_tokens, copies),
        adapter_ids=None if ids is None else tuple(name for name in ids for _ in range(copies)),
    )


def draw_adapters(
    num_requests: int, popularity: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int32]:
    """Draw the adapter of each request: one request each, the others multinomial, in random order.

    Parameters
    ----------
    num_requests
        Not below the number of adapters.
    popularity
        (num_adapters,) float64, > 0: shares of the requests, up to a factor.
    rng
        Source of all randomness.

    Returns
    -------
    (num_requests,) int32.
    """
    num_adapters = popularity.shape[0]
    if num_requests < num_adapters:
        raise InvalidInputError(
            "trace", f"must hold a request for each of {num_adapters} adapters, got {num_requests}"
        )
    counts = 1 + rng.multinomial(num_requests - num_adapters, popularity / popularity.sum())
    owners = np.repeat(np.arange(num_adapters, dtype=np.int32), counts)
    rng.shuffle(owners)
    return owners


def stream_of(trace: Trace, workload: Workload, *, seed: int) -> RequestStream:
    """Return a trace as the requests of a workload, with the trace's lengths.

    Where it names no adapters they are drawn (`draw_adapters`), as popular as their rates say.
    """
    if trace.adapter_ids is not None:
        return as_stream(trace, workload.adapter_ids)
    rng = np.random.default_rng(seed)
    return RequestStream(
        arrival_ns=trace.arrival_ns,
        adapter_of=draw_adapters(trace.num_requests, workload.rate_rps, rng),
        prompt_tokens=trace.prompt_tokens,
        output_tokens=trace.output_tokens,
    )


def fleet_case(
    trace: Trace, workload: Workload, recipe: FleetRecipe, *, max_model_len: int = MAX_TOKENS
) -> FleetCase:
    """Return what a planner knows after the first window and what the second one brings.

    An adapter that is not seen in the first window counts one request in it (1/3,600 req/s in an
    hour). The published Azure and Mooncake files hold just under one hour: take half of it for each.

    Parameters
    ----------
    trace
        Arrivals, and lengths where the recipe takes them.
    workload
        The adapters; popularity is by `rate_rps`. Lengths are drawn by its laws.
    recipe
        Copies, windows, lengths, seed.
    max_model_len
        Drawn lengths are cut to it.

    Raises
    ------
    InvalidInputError
        When the judged window or the trace holds too few requests.
    """
    owner_rng, length_rng = (
        np.random.Generator(np.random.SFC64(child)) for child in np.random.SeedSequence(recipe.seed).spawn(2)
    )
    whole = replicate(trace, recipe.copies)
    owners = draw_adapters(whole.num_requests, workload.rate_rps, owner_rng)
    first, last = np.searchsorted(
        whole.arrival_ns, [round(recipe.estimate_s * 1e9), round((recipe.estimate_s + recipe.judge_s) * 1e9)]
    )
    if first == last:
        raise InvalidInputError("judge_s", f"holds no request after the first {recipe.estimate_s:g} s")
    prompt, output = whole.prompt_tokens, whole.output_tokens
    if not recipe.trace_lengths:
        prompt, output = lengths_of(workload, owners, length_rng, max_model_len=max_model_len)
    judged = slice(int(first), int(last))
    return FleetCase(
        known=_known(workload, owners[: judged.start], prompt, output, recipe),
        requests=RequestStream(
            arrival_ns=whole.arrival_ns[judged] - round(recipe.estimate_s * 1e9),
            adapter_of=owners[judged],
            prompt_tokens=prompt[judged],
            output_tokens=output[judged],
        ),
        num_estimated=judged.start,
        num_after=whole.num_requests - judged.stop,
    )


def _known(
    workload: Workload,
    owners: NDArray[np.int32],
    prompt: NDArray[np.int32],
    output: NDArray[np.int32],
    recipe: FleetRecipe,
) -> Workload:
    """Return the workload as the first window shows it."""
    seen = np.bincount(owners, minlength=workload.num_adapters)
    known = replace(workload, rate_rps=np.maximum(seen, 1) / recipe.estimate_s, rate_schedules=())
    if not recipe.trace_lengths:
        return known
    return replace(
        known,
        input_tokens_mean=_mean_tokens(prompt, owners, seen),
        output_tokens_mean=_mean_tokens(output, owners, seen),
        input_tokens_quantiles=(),
        output_tokens_quantiles=(),
    )


def _mean_tokens(
    tokens: NDArray[np.int32], owners: NDArray[np.int32], seen: NDArray[np.int_]
) -> NDArray[np.float64]:
    """Return each adapter's mean over its requests seen; an unseen one gets the mean of all."""
    early = tokens[: owners.shape[0]]
    overall = float(early.mean()) if early.shape[0] else float(tokens.mean())
    sums = np.bincount(owners, weights=early, minlength=seen.shape[0])
    return np.divide(sums, seen, out=np.full(seen.shape[0], overall), where=seen > 0)
