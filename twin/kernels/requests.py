"""Requests drawn in one pass: when each arrives, for which adapter, how long it is.

The random generator is an argument, seeded by the caller. Every draw is a method of numpy's
Generator, so the same code without the compiler draws the same numbers.
"""

import math
from typing import Any

import numpy as np
from numba import njit

POISSON, GAMMA, WEIBULL, LOGNORMAL, FIXED, REFERENCE_LOGNORMAL = range(6)
"""Laws of the gaps between two requests of one adapter."""

SHAREGPT, GAMMA_LENGTH, QUANTILE_LENGTH = range(3)
"""Laws of a length."""

SMALL_WEIBULL_CV = 1e-3
"""Below it a Weibull shape is pi / (sqrt(6) cv): the gamma functions would cancel."""


@njit(cache=True, nogil=True)
def alias_table(weights):
    """Return Walker's alias table of a discrete law, by Vose's method.

    Parameters
    ----------
    weights
        (n,) float64, >= 0, some above 0.

    Returns
    -------
    keep
        (n,) float64: column `i` stands for `i` with this probability, else for its alias.
    alias
        (n,) int32.
    """
    count = weights.shape[0]
    keep = weights * (count / weights.sum())
    alias = np.arange(count).astype(np.int32)
    stack = np.empty(count, np.int64)  # poor columns from below, rich ones from above
    poor, rich = 0, count
    for row in range(count):
        if keep[row] < 1.0:
            stack[poor] = row
            poor += 1
        else:
            rich -= 1
            stack[rich] = row
    while poor > 0 and rich < count:
        poor -= 1
        taker, giver = stack[poor], stack[rich]
        alias[taker] = giver
        keep[giver] -= 1.0 - keep[taker]
        if keep[giver] < 1.0:
            rich += 1
            stack[poor] = giver
            poor += 1
    for index in range(poor):  # left over by rounding
        keep[stack[index]] = 1.0
    for index in range(rich, count):
        keep[stack[index]] = 1.0
    return keep, alias


@njit(cache=True, nogil=True)
def poisson_arrivals(rng, total_rps, keep, alias, horizon_s, max_requests, capacity):
    """Superpose Poisson processes: exponential gaps at the total rate, owners independent.

    Parameters
    ----------
    rng
        numpy Generator.
    total_rps
        Sum of the rates.
    keep, alias
        `alias_table` of the rates.
    horizon_s, max_requests
        The stream ends before the horizon and after so many requests.
    capacity
        Requests to make room for at first, >= 1.

    Returns
    -------
    arrival_ns
        (num_requests,) int64, sorted.
    owner
        (num_requests,) int32, index into the rates.
    """
    arrival_ns = np.empty(min(capacity, max_requests), np.int64)
    owner = np.empty(arrival_ns.shape[0], np.int32)
    count, elapsed = _fill_poisson(rng, total_rps, keep, alias, horizon_s, 0, 0.0, arrival_ns, owner)
    while count == arrival_ns.shape[0] and count < max_requests:
        arrival_ns = _longer(arrival_ns, min(2 * count, max_requests))
        owner = _longer(owner, arrival_ns.shape[0])
        count, elapsed = _fill_poisson(
            rng, total_rps, keep, alias, horizon_s, count, elapsed, arrival_ns, owner
        )
    return arrival_ns[:count], owner[:count]


@njit(cache=True, nogil=True)
def _fill_poisson(rng, total_rps, keep, alias, horizon_s, count, elapsed, arrival_ns, owner):
    """Fill both columns from `count` on, to their ends or the horizon; return where it stands.

    A function of its own, for the compiler: a loop that exchanges its arrays is eight times slower.
    """
    num_columns = keep.shape[0]
    while count < arrival_ns.shape[0]:
        elapsed += rng.standard_exponential()  # in mean gaps
        arrival_s = elapsed / total_rps
        if not arrival_s < horizon_s:
            break
        drawn = rng.random() * num_columns
        column = int(drawn)
        arrival_ns[count] = int(arrival_s * 1e9)
        owner[count] = column if drawn - column < keep[column] else alias[column]
        count += 1
    return count, elapsed


@njit(cache=True, nogil=True)
def _longer(column, length) -> Any:
    longer = np.empty(length, column.dtype)
    longer[: column.shape[0]] = column
    return longer


@njit(cache=True, nogil=True)
def weibull_shape(cv):
    """Return the shape of the Weibull law with this coefficient of variation, > 0.

    ``1 + cv**2 = gamma(1 + 2/k) / gamma(1 + 1/k)**2`` by bisection in ``log(k)``.
    """
    if cv < SMALL_WEIBULL_CV:
        return math.pi / (math.sqrt(6.0) * cv)
    target = math.log1p(cv * cv)
    low, high = math.log(1e-2), math.log(1e4)
    for _ in range(60):
        middle = 0.5 * (low + high)
        inverse = math.exp(-middle)
        if math.lgamma(1.0 + 2.0 * inverse) - 2.0 * math.lgamma(1.0 + inverse) > target:
            low = middle
        else:
            high = middle
    return math.exp(0.5 * (low + high))


@njit(cache=True, nogil=True)
def gap_parameters(law, rate_rps, cv):
    """Return shape and scale (seconds) of a law of gaps with mean ``1 / rate_rps``.

    `REFERENCE_LOGNORMAL` alone does not have that mean: its gaps are ``exp(rate_rps * z)`` seconds.
    """
    mean_s = 1.0 / rate_rps
    if law == GAMMA:
        return cv**-2, mean_s * cv**2
    if law == WEIBULL:
        shape = weibull_shape(cv)
        return shape, mean_s / math.gamma(1.0 + 1.0 / shape)
    if law == LOGNORMAL:
        sigma2 = math.log1p(cv * cv)
        return math.sqrt(sigma2), mean_s * math.exp(-0.5 * sigma2)
    if law == REFERENCE_LOGNORMAL:
        return rate_rps, 1.0
    return 1.0, mean_s


@njit(cache=True, nogil=True)
def _gap_s(rng, law, shape, scale_s):
    if law == POISSON:
        return scale_s * rng.standard_exponential()
    if law == GAMMA:
        return scale_s * rng.standard_gamma(shape)
    if law == WEIBULL:
        return scale_s * rng.standard_exponential() ** (1.0 / shape)
    if law == FIXED:
        return scale_s
    return scale_s * math.exp(shape * rng.standard_normal())


@njit(cache=True, nogil=True)
def _first_gap_s(rng, law, shape, scale_s):
    """Return the wait for the first arrival, as an observer who comes at any time would see it.

    That is a uniform share of a length-biased gap; each law's length-biased form is known. A
    memoryless law needs none, and the reference's regime starts with a whole gap.
    """
    if law in {POISSON, REFERENCE_LOGNORMAL}:
        return _gap_s(rng, law, shape, scale_s)
    share = rng.random()
    if law == GAMMA:
        return share * scale_s * rng.standard_gamma(shape + 1.0)
    if law == WEIBULL:
        return share * scale_s * rng.standard_gamma(1.0 + 1.0 / shape) ** (1.0 / shape)
    if law == LOGNORMAL:
        return share * scale_s * math.exp(shape * (rng.standard_normal() + shape))
    return share * scale_s


@njit(cache=True, nogil=True)
def renewal_arrivals(rng, owner_of, start_s, end_s, law, rate_rps, cv, limit):
    """Draw a renewal process in each piece of time, stationary within it.

    Parameters
    ----------
    rng
        numpy Generator.
    owner_of
        (num_pieces,) int32, the adapter whose requests these are.
    start_s, end_s
        (num_pieces,) float64; a piece holds arrivals at or after its start and before its end.
    law
        (num_pieces,) int8, see `POISSON` and its neighbours.
    rate_rps, cv
        (num_pieces,) float64, > 0; `cv` is read where the law has one.
    limit
        Drawing ends beyond so many requests.

    Returns
    -------
    arrival_ns
        (num_requests,) int64, piece after piece.
    owner
        (num_requests,) int32.
    """
    expected = np.sum(rate_rps * (end_s - start_s))
    arrival_ns = np.empty(int(min(1.1 * expected, float(limit))) + 64, np.int64)
    owner_of_request = np.empty(arrival_ns.shape[0], np.int32)
    count = 0
    for piece in range(owner_of.shape[0]):
        first = count
        shape, scale_s = gap_parameters(law[piece], rate_rps[piece], cv[piece])
        next_s = start_s[piece] + _first_gap_s(rng, law[piece], shape, scale_s)
        count, next_s = _fill_piece(rng, law[piece], shape, scale_s, next_s, end_s[piece], count, arrival_ns)
        while next_s < end_s[piece] and count <= limit:
            arrival_ns = _longer(arrival_ns, 2 * count)
            owner_of_request = _longer(owner_of_request, 2 * count)
            count, next_s = _fill_piece(
                rng, law[piece], shape, scale_s, next_s, end_s[piece], count, arrival_ns
            )
        owner_of_request[first:count] = owner_of[piece]
    return arrival_ns[:count], owner_of_request[:count]


@njit(cache=True, nogil=True)
def _fill_piece(rng, law, shape, scale_s, next_s, end_s, count, arrival_ns):
    """Fill `arrival_ns` from `count` on, to its end or the piece's; return where it stands."""
    while next_s < end_s and count < arrival_ns.shape[0]:
        arrival_ns[count] = int(next_s * 1e9)
        count += 1
        next_s += _gap_s(rng, law, shape, scale_s)
    return count, next_s


@njit(cache=True, nogil=True)
def sort_by_arrival(arrival_ns, owner):
    """Return both columns in order of arrival, ties in the order given: a radix sort.

    Its cost grows with the number of requests alone, and no machine orders ties in its own way. The
    columns given are overwritten.

    Parameters
    ----------
    arrival_ns
        (num_requests,) int64, >= 0.
    owner
        (num_requests,) int32.
    """
    latest = arrival_ns.max() if arrival_ns.shape[0] else 0
    next_ns, next_owner = np.empty_like(arrival_ns), np.empty_like(owner)
    shift = 0
    while latest >> shift > 0:
        _sort_by_digit(arrival_ns, owner, shift, next_ns, next_owner)
        arrival_ns, next_ns = next_ns, arrival_ns
        owner, next_owner = next_owner, owner
        shift += 11
    return arrival_ns, owner


@njit(cache=True, nogil=True)
def _sort_by_digit(arrival_ns, owner, shift, next_ns, next_owner):
    """Copy both columns in order of the 11 bits above `shift`, ties in the order given."""
    position = np.zeros(2049, np.int64)
    for index in range(arrival_ns.shape[0]):
        position[((arrival_ns[index] >> shift) & 2047) + 1] += 1
    for digit in range(2048):
        position[digit + 1] += position[digit]
    for index in range(arrival_ns.shape[0]):
        digit = (arrival_ns[index] >> shift) & 2047
        next_ns[position[digit]] = arrival_ns[index]
        next_owner[position[digit]] = owner[index]
        position[digit] += 1


@njit(cache=True, nogil=True)
def draw_lengths(
    rng, adapter_of, joint, length_law, mean_tokens, cv, first_knot, knot_level, knot_tokens, max_model_len
):
    """Draw prompt and output length of each request, each >= 1, together at most `max_model_len`.

    Parameters
    ----------
    rng
        numpy Generator.
    adapter_of
        (num_requests,) int32.
    joint
        (num_pairs, 2) float32: prompt and output over their means, pairs equally likely.
    length_law
        (num_adapters, 2) int8, of prompts and of outputs; see `SHAREGPT` and its neighbours.
    mean_tokens, cv
        (num_adapters, 2) float64; `cv` is read by gamma laws.
    first_knot
        (num_adapters, 2, 2) int64, first and last knot of a law by quantiles.
    knot_level, knot_tokens
        (num_knots,) float64, levels from 0 to 1 and lengths, both ascending in a law.
    max_model_len
        Integer >= 2; at most 2**31 - 1.

    Returns
    -------
    prompt_tokens, output_tokens
        (num_requests,) int32.
    """
    count = adapter_of.shape[0]
    prompt_tokens = np.empty(count, np.int32)
    output_tokens = np.empty(count, np.int32)
    for request in range(count):
        row = adapter_of[request]
        pair = int(rng.random() * joint.shape[0])
        law = length_law[row, 0]
        prompt = float(joint[pair, 0]) * mean_tokens[row, 0]
        if law == GAMMA_LENGTH:
            prompt = mean_tokens[row, 0] * cv[row, 0] ** 2 * rng.standard_gamma(cv[row, 0] ** -2)
        elif law == QUANTILE_LENGTH:
            prompt = _quantile(rng.random(), first_knot[row, 0], knot_level, knot_tokens)
        law = length_law[row, 1]
        output = float(joint[pair, 1]) * mean_tokens[row, 1]
        if law == GAMMA_LENGTH:
            output = mean_tokens[row, 1] * cv[row, 1] ** 2 * rng.standard_gamma(cv[row, 1] ** -2)
        elif law == QUANTILE_LENGTH:
            output = _quantile(rng.random(), first_knot[row, 1], knot_level, knot_tokens)
        prompt = max(1.0, min(prompt + 0.5, max_model_len - 1.0))
        prompt_tokens[request] = int(prompt)
        output = max(1.0, min(output + 0.5, float(max_model_len - prompt_tokens[request])))
        output_tokens[request] = int(output)
    return prompt_tokens, output_tokens


@njit(cache=True, nogil=True)
def _quantile(level, knots, knot_level, knot_tokens):
    """Return the length at a level, linear between the knots that stand around it."""
    low, high = knots[0], knots[1]
    while high - low > 1:
        middle = (low + high) // 2
        if knot_level[middle] <= level:
            low = middle
        else:
            high = middle
    share = (level - knot_level[low]) / (knot_level[high] - knot_level[low])
    return knot_tokens[low] + share * (knot_tokens[high] - knot_tokens[low])
