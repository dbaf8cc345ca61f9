"""Sequential design: which state would tell most now, and when what is known is enough.

The step law is linear in its coefficients. From the states measured so far follows how uncertain the
time of any other state is, relative to that time. A state is measured only while its own time is more
uncertain than the target, the most uncertain one first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from twin.kernels.latency import step_terms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from service.agent.plan import Launch, State

NOISE = 0.03
"""Relative standard deviation of a held state's time, about: repeats differ by so much."""

SHORTEST_MS = 0.01


def expected_state(state: State, launch: Launch) -> NDArray[np.float64]:
    """Return the terms of the step that a held state runs over and over, (num_terms,) float64."""
    share = 1.0 / max(state.output_tokens, 1)
    decodes = state.concurrency * (1.0 - share)
    context = decodes * (state.input_tokens + 0.5 * state.output_tokens)
    row = (decodes, state.concurrency * share * state.input_tokens, context, float(state.adapters))
    return step_terms(np.array([row]), launch.max_lora_rank, launch.max_loras)[0]


class Knowledge:
    """What held states have told about the step law.

    Parameters
    ----------
    scale
        (num_terms,) float64, the largest value of each term in any state of the plan: before a term is
        measured it may be anything up to a whole step there.
    """

    def __init__(self, scale: NDArray[np.float64]) -> None:
        self._prior = np.where(scale > 0, scale, 1.0)
        self._rows: list[NDArray[np.float64]] = []
        self._times_ms: list[float] = []

    def learn(self, row: Mapping[str, object], launch: Launch) -> None:
        """Take in a row of ``step_points.csv``."""
        state = [float(row[name]) for name in ("decodes", "prefill_tokens", "context_tokens")]  # type: ignore[arg-type]
        terms = step_terms(
            np.array([[*state, float(row["adapters_in_batch"])]]),  # type: ignore[arg-type]
            launch.max_lora_rank,
            launch.max_loras,
        )[0]
        self._rows.append(terms)
        self._times_ms.append(max(float(row["step_ms"]), SHORTEST_MS))  # type: ignore[arg-type]

    def relative_errors(self, states: Sequence[tuple[State, Launch]]) -> NDArray[np.float64]:
        """Return the standard error of each state's time over that time, (num_states,) float64."""
        wanted = np.array([expected_state(state, launch) for state, launch in states])
        if not self._rows:
            return np.full(len(states), np.inf)
        times_ms = np.array(self._times_ms)
        design = np.array(self._rows) / times_ms[:, None] / NOISE
        typical_ms = float(np.median(times_ms))
        prior = np.diag((self._prior / typical_ms) ** 2)
        covariance = np.linalg.pinv(design.T @ design + prior)
        law = covariance @ (design.T @ np.full(len(times_ms), 1.0 / NOISE))
        expected_ms = np.maximum(wanted @ np.maximum(law, 0.0), times_ms.min())
        variance = np.einsum("ij,jk,ik->i", wanted, covariance, wanted)
        return np.sqrt(np.maximum(variance, 0.0)) / expected_ms


def next_state(
    knowledge: Knowledge, open_states: Sequence[State], launch: Launch, target_error: float
) -> State | None:
    """Return the state of a launch that would tell most, None where all are certain enough."""
    if not open_states:
        return None
    errors = knowledge.relative_errors([(state, launch) for state in open_states])
    most = int(np.argmax(errors))
    return open_states[most] if errors[most] > target_error else None


def uncertain_states(
    knowledge: Knowledge, states: Sequence[tuple[State, Launch]], target_error: float
) -> list[str]:
    """Return a sentence for each state whose time is still more uncertain than the target."""
    if not states:
        return []
    errors = knowledge.relative_errors(states)
    return [
        f"{state.key(launch)}: the step time is known to {100 * min(error, 9.99):.0f} %"
        for (state, launch), error in zip(states, errors, strict=True)
        if error > target_error
    ]
