"""How few GPUs any plan could need: bounds that hold for every `max_loras` and every packing.

Two kinds of proof, and what each rests on:

Load bound: the calibration and max_rho
---------------------------------------
Adapter `i` with rate ``r``, prompt length ``p`` and ``d`` decode steps a request (generated tokens
less the first, which the prefill emits) asks of its GPU, each second, for ``r`` requests, ``r d``
decodes, ``r p`` prompt tokens, and ``r (d p + d (d + 1) / 2)`` tokens of context that its decodes
read. Call the sums over a GPU's adapters its demand X.

A step with a request in it has one adapter at least, on one slot at least. Let ``f(x)`` be the time
of such a step, Lat_model and Lat_sched together, with the work ``x`` in it, without `eager_ms`, the
one term that is not convex in the work (leaving a cost out can only lower the bound). The rest is
convex (linear, and one term that begins at a knee), so N steps that do X together take at least
``N f(X / N)``. A step holds at most `max_num_batched_tokens` tokens, `max_num_seqs` decodes and as
much context as the KV cache has beside one slot, which bounds N from below by ``n(X)``. Hence a GPU
is busy for at least ``G(X) = min over N >= n(X) of N f(X / N)``: its *best-case utilisation*. (In N
the expression is convex with one knee, so the minimum is at n(X) or at the knee.)

G is convex and ``G(c X) = c G(X)``, so it is subadditive: G of the whole workload's demand is at most
the sum over GPUs. A GPU above 1 falls behind, but one little above 1 still serves nine tenths and
starves nobody, so a GPU may be offered `max_rho`; rho is never below G. Hence G of the whole over
the largest of `max_rho`, `max_kv_pressure` and 1, rounded up, is the bound. It knows nothing of
queueing, of the surrogate, or of how many adapters a step really holds.

Share bound: what makes the placer accept a GPU
-----------------------------------------------
Relative to the oracle, that is to memory, the formulas behind `models.features` and the margins of
`placer.margins`; whatever the trees say can only take GPUs away. A *least share* is a number for each
adapter such that the shares on an accepted GPU never exceed 1 together; then their sum over all
adapters, rounded up, is a lower bound, and every bound of one-dimensional bin packing holds for them
(`martello_toth`). They come about so (`placer.kernels.shares`):

1. Let a GPU with slots S of rank R serve a set with decodes, prompt tokens and context tokens
   X = (W, P, C) a second. Its fullest batch is B = min(KV(S) / (C / W), budget / (1 + P / W), seqs), its
   pace there N = W / B = max(C / KV, (W + P) / budget, W / seqs) steps a second, and its load is
   rho = N step(X / N; A, S, R) where A = min(S, active(1 / N) + ...) adapters are in a step.
   Accepted means rho <= max_rho, and where the cache bounds the batch rho (1 + h) <= max_kv_pressure
   with the margin of KV ``h = (few_kv_requests C / (KV W))^2``.
2. Cut all GPUs into cells by A, by N, by what bounds the batch, and by whether the active adapters
   have a slot each. In a cell A > A_low, so S is at least the next value of the ladder, which bounds
   KV from above and the slots' cost from below. ``N step(X / N)`` is convex and grows in N, so its
   tangent, with a linear lower bound of N in it, is a linear function of X that rho never goes below;
   ``N A >= N A_low + N_slow (A - A_low)`` adds the adapters; `eager_ms`, which is not convex, adds at least
   what steps of the slowest pace pay of it, as a faster pace costs more in steps than it saves of it
   (`placer.kernels.shares._eager_s`); ``h rho >= c C^2 / W >= c (2 q C - q^2 W)``
   adds the margin of KV. The active adapters themselves are ``sum(1 - exp(-W_i / N)) <= A_high``, and
   tokens and context are bounded by the pace. Where slots are short of the adapters active at full
   batch, A is S, and acceptance asks for slots for those active at the operating pace nu; the batch
   there is settled (`placer.kernels.acceptance`), so ``nu step(X / nu; A_op)`` is at most `MAX_UNSETTLED` or
   the limit of rho, which bounds the work from above by the pace, and the activity at that pace is limited
   by S. There `eager_ms` counts in full where steps hold 768 tokens, and with fewer grows with the tokens.
3. Each of these conditions says that a linear size of the adapters adds up to at most 1. So does every
   mixture of them with weights that add up to 1. One mixture is chosen for each cell (by the simplex
   method, for groups of like adapters; the choice cannot make the bound wrong, only loose).
4. A GPU is in some cell, so the least of an adapter's mixtures over all cells adds up to at most 1
   there: that is its least share. A GPU's slot rank is part of its cell; an adapter of rank R has all
   cells of rank R or higher.

Where the rest of the gap comes from: the trees accept less than the formulas; an adapter is priced at the
cell that suits it best, though others on its GPU may not fit there; cells have a width.

Count bound
-----------
A GPU holds at most so many adapters: `placer.limits.max_adapters_per_gpu`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from models.features import adapter_terms
from models.kernels import features as feature
from placer.kernels import best_case as kernel
from placer.kernels.shares import least_shares as fill_least_shares
from placer.limits import max_adapters_per_gpu, max_loras_ladders, usable_slot_ranks
from placer.ranks import slot_rank, slot_rank_classes
from twin.domain import ServerConfig
from twin.latency import scheduler_coefficients, step_coefficients
from twin.memory import kv_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from placer.placement import BoundKind
    from placer.problem import PlacementProblem

ROUNDING = 1e-9
"""Relative slack of the sums, so that rounding cannot lift a bound above a full plan."""


class BestCase(NamedTuple):
    """The cheapest server of a problem, as `placer.kernels.best_case` reads it."""

    step_coefficients: NDArray[np.float64]
    scheduler_coefficients: NDArray[np.float64]
    server: NDArray[np.float64]


class Precision(NamedTuple):
    """How finely the share bound cuts: ratios of paces and of active adapters, groups of like ones."""

    pace_ratio: float
    bucket_ratio: float
    max_clusters: int


COARSE = Precision(pace_ratio=1.4, bucket_ratio=1.3, max_clusters=4)
"""A millisecond for a thousand adapters: what the packer needs of shares."""

PROOFS = (
    Precision(pace_ratio=1.12, bucket_ratio=1.1, max_clusters=16),
    Precision(pace_ratio=1.06, bucket_ratio=1.05, max_clusters=16),
    Precision(pace_ratio=1.03, bucket_ratio=1.03, max_clusters=16),
)
"""What a proof needs, finer and finer: tens to hundreds of milliseconds for a thousand adapters."""

FINER_GAIN = 1.02
"""The last of `PROOFS` had sums of shares larger by less than this factor than the first one."""

NEAR = 2
"""GPUs of a plan above its bound, at most, where cutting finer may yet prove it: a search may save one."""

SMALL_FLEET = 20
"""With more GPUs one more or less is no matter of how finely shares are cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LowerBounds:
    """Numbers of GPUs that no plan with every adapter placed goes below.

    Attributes
    ----------
    load
        From the calibration: the best-case utilisation of one GPU, which `max_rho` limits.
    share
        From least shares: what the placer accepts of one GPU.
    count
        From the adapters that one GPU may hold.
    """

    load: int
    share: int
    count: int

    @property
    def best(self) -> int:
        """The largest bound."""
        return max(self.load, self.share, self.count)

    @property
    def rests_on(self) -> BoundKind:
        """The bound that is largest, the one with the weakest assumptions where several are."""
        by_strength: tuple[tuple[BoundKind, int], ...] = (
            ("load", self.load),
            ("count", self.count),
            ("share", self.share),
        )
        return next(name for name, value in by_strength if value == self.best)


def lower_bounds(problem: PlacementProblem, shares: NDArray[np.float64] | None = None) -> LowerBounds:
    """Return every bound of the problem; see the module for what each rests on.

    Parameters
    ----------
    problem
        What is to be placed.
    shares
        (num_adapters,) float64 from `least_shares` where they are at hand.
    """
    count = problem.workload.num_adapters / max_adapters_per_gpu(problem)
    return LowerBounds(
        load=load_bound(problem),
        share=martello_toth(least_shares(problem) if shares is None else shares),
        count=math.ceil(count),
    )


def tightened(problem: PlacementProblem, found: LowerBounds, num_gpus: int) -> LowerBounds:
    """Return bounds with those of finely cut shares, all valid: cut finer where that may prove a plan.

    Parameters
    ----------
    problem, found
        What is to be placed, and its bounds so far.
    num_gpus
        Of the plan at hand.
    """
    for precision in PROOFS:
        shares = np.minimum(least_shares(problem, precision), 1.0)
        found = replace(found, share=max(found.share, martello_toth(shares)))
        is_near = 0 < num_gpus - found.best <= NEAR
        if not is_near or num_gpus > SMALL_FLEET or shares.sum() * FINER_GAIN <= found.best:
            break
    return found


def lower_bound(problem: PlacementProblem) -> int:
    """Return a number of GPUs that no plan with every adapter placed goes below."""
    return lower_bounds(problem).best


def load_bound(problem: PlacementProblem) -> int:
    """Return the bound that rests on the calibration and `max_rho`."""
    fullest = max(problem.kept_margins.max_rho, problem.kept_margins.max_kv_pressure, 1.0)
    return math.ceil(workload_utilisation(problem) / fullest * (1 - ROUNDING))


def martello_toth(shares: NDArray[np.float64]) -> int:
    """Return the bound L2 of Martello and Toth (1990) for items of these sizes and bins of 1.

    For each threshold K <= 1/2: items above 1 - K fit with nothing of K or more, each other one above
    1/2 needs a bin of its own, and what these leave must hold the items in [K, 1/2].

    Parameters
    ----------
    shares
        (num_adapters,) float64 >= 0; more than 1 counts as 1.
    """
    sizes = np.sort(np.minimum(shares, 1.0))[::-1]
    summed = np.concatenate([[0.0], np.cumsum(sizes)])
    best = math.ceil(summed[-1] * (1 - ROUNDING))
    above_half = int(np.searchsorted(-sizes, -0.5))
    if above_half == 0:
        return best
    thresholds = np.unique(sizes[sizes <= 0.5])  # noqa: PLR2004 (half a bin)
    alone = np.searchsorted(-sizes, -(1 - thresholds))
    last = np.searchsorted(-sizes, -thresholds, side="right")
    room = (above_half - alone) - (summed[above_half] - summed[alone])
    small = summed[last] - summed[above_half]
    rest = np.maximum(np.ceil((small - room) * (1 - ROUNDING) - ROUNDING), 0)
    return max(best, above_half, int((above_half + rest).max(initial=0)))


def least_shares(problem: PlacementProblem, precision: Precision = COARSE) -> NDArray[np.float64]:
    """Return for each adapter a share so that those on an accepted GPU are never above 1 together.

    Parameters
    ----------
    problem
        What is to be placed.
    precision
        How finely to cut: finer is tighter and takes longer.

    Returns
    -------
    (num_adapters,) float64, infinite where no GPU takes an adapter.
    """
    terms = adapter_terms(problem.workload)
    calibration = problem.surrogate.calibration
    decodes = terms[:, feature.RATE_OUT]
    context = (
        terms[:, feature.RATE_IN_OUT]
        + 0.5 * terms[:, feature.RATE_OUT_SQUARED]
        + 0.5 * calibration[feature.BLOCK_SIZE] * decodes
    )
    # A batch holds one request at least, however long its prompt and context.
    prompt = np.minimum(
        terms[:, feature.RATE_IN], (calibration[feature.MAX_NUM_BATCHED_TOKENS] - 1) * decodes
    )
    context = np.minimum(context, problem.longest_request_tokens * decodes)
    brought = np.stack([decodes, prompt, context], axis=1)
    shares = np.empty(len(decodes))
    fill_least_shares(
        calibration,
        brought,
        decodes,
        slot_rank_classes(problem.workload.rank),
        np.array(usable_slot_ranks(problem), dtype=np.int64),
        max_loras_ladders(problem),
        problem.kept_margins.vector,
        *precision,
        shares,
    )
    return shares


def workload_utilisation(problem: PlacementProblem) -> float:
    """Return the GPUs' time that the whole workload needs at best, in GPUs."""
    demand = adapter_demands(problem).sum(axis=0)
    return float(kernel.best_case_utilisation(*best_case(problem), demand))


def adapter_demands(problem: PlacementProblem) -> NDArray[np.float64]:
    """Return what each adapter asks of its GPU in one second.

    Returns
    -------
    (num_adapters, 4) float64: requests, decodes, prompt tokens, context tokens read.
    """
    workload = problem.workload
    prompt = workload.input_tokens_mean
    decodes = workload.output_tokens_mean - 1
    context = decodes * prompt + decodes * (decodes + 1) / 2
    demands = np.stack([np.ones_like(prompt), decodes, prompt, context], axis=1)
    return demands * workload.rate_rps[:, None]


def best_case(problem: PlacementProblem) -> BestCase:
    """Return the laws, and the server with one slot of the smallest rank that the workload needs."""
    calibration = problem.calibration
    rank = slot_rank(int(problem.workload.rank.min()))
    flags = ServerConfig(max_loras=1, max_lora_rank=rank)
    kv = max(kv_tokens(calibration, 1, rank, flags.block_size), 1)
    return BestCase(
        step_coefficients(replace(calibration.step, eager_ms=0.0)),
        scheduler_coefficients(calibration.scheduler),
        np.array([flags.max_num_batched_tokens, flags.max_num_seqs, kv, rank], dtype=np.float64),
    )
