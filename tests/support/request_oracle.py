"""Requests drawn by plain Python from the same generator: what the kernel must equal to the bit."""

from __future__ import annotations

import bisect
import math

import numpy as np


def plain_poisson_arrivals(rng, rates, horizon_s, max_requests, keep, alias):
    """Gaps at the total rate, each owner by one throw at the alias table."""
    total = float(np.sum(rates))
    elapsed, requests = 0.0, []
    while len(requests) < max_requests:
        elapsed += rng.standard_exponential()
        if elapsed / total >= horizon_s:
            break
        column, coin = divmod(rng.random() * len(rates), 1.0)
        owner = int(column) if coin < keep[int(column)] else int(alias[int(column)])
        requests.append((int(elapsed / total * 1e9), owner))
    return requests


def plain_gap(rng, law, rate, cv, *, first):
    """One gap, or a uniform share of a length-biased one, by the textbook form of each law."""
    mean = 1.0 / rate
    share = rng.random() if first and law not in ("poisson", "reference_lognormal") else 1.0
    if law == "poisson":
        return mean * rng.standard_exponential()
    if law == "fixed":
        return share * mean
    if law == "gamma":
        return share * (mean * cv**2) * rng.standard_gamma(cv**-2 + (1.0 if first else 0.0))
    if law == "reference_lognormal":
        return math.exp(rate * rng.standard_normal())
    if law == "lognormal":
        sigma = math.sqrt(math.log1p(cv**2))
        shift = sigma if first else 0.0
        return share * mean * math.exp(sigma * (rng.standard_normal() + shift) - sigma**2 / 2)
    shape = plain_weibull_shape(cv)
    scale = mean / math.gamma(1.0 + 1.0 / shape)
    drawn = rng.standard_gamma(1.0 + 1.0 / shape) if first else rng.standard_exponential()
    return share * scale * drawn ** (1.0 / shape)


def plain_weibull_shape(cv):
    """The shape whose moments give this cv, by bisection in the shape itself."""
    low, high = 0.01, 1e4
    for _ in range(200):
        shape = (low + high) / 2
        ratio = math.exp(math.lgamma(1 + 2 / shape) - 2 * math.lgamma(1 + 1 / shape))
        low, high = (shape, high) if ratio > 1 + cv**2 else (low, shape)
    return low


def plain_renewal_arrivals(rng, pieces):
    """One renewal process a piece: (owner, start, end, law, rate, cv)."""
    requests = []
    for owner, start_s, end_s, law, rate, cv in pieces:
        arrival_s = start_s + plain_gap(rng, law, rate, cv, first=True)
        while arrival_s < end_s:
            requests.append((int(arrival_s * 1e9), owner))
            arrival_s += plain_gap(rng, law, rate, cv, first=False)
    return requests


def plain_lengths(rng, owners, joint, laws, max_model_len):
    """Prompt and output of each request; `laws[adapter]` is a pair of (kind, mean, cv or knots)."""
    lengths = []
    for owner in owners:
        pair = joint[int(rng.random() * len(joint))]
        drawn = []
        for side, (kind, mean, more) in enumerate(laws[owner]):
            if kind == "sharegpt":
                drawn.append(float(pair[side]) * mean)
            elif kind == "gamma":
                drawn.append(mean * more**2 * rng.standard_gamma(more**-2))
            else:
                drawn.append(plain_quantile(rng.random(), *more))
        prompt = int(max(1.0, min(drawn[0] + 0.5, max_model_len - 1.0)))
        lengths.append((prompt, int(max(1.0, min(drawn[1] + 0.5, max_model_len - prompt)))))
    return lengths


def plain_quantile(level, levels, tokens):
    """The length at a level, linear between the two knots around it."""
    right = min(max(bisect.bisect_right(levels, level), 1), len(levels) - 1)
    share = (level - levels[right - 1]) / (levels[right] - levels[right - 1])
    return tokens[right - 1] + share * (tokens[right] - tokens[right - 1])
