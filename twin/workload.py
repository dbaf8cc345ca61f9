"""Request streams: when each request arrives, for which adapter, and how long it is.

Arrivals are drawn in `twin.arrivals`, lengths in `twin.lengths`; `twin.traces` reads streams instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twin.arrivals import MAX_REQUESTS, arrivals_of
from twin.errors import InvalidInputError
from twin.lengths import lengths_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from twin.domain import Workload


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestStream:
    """Requests in order of arrival, as one server's client sends them.

    Attributes
    ----------
    arrival_ns
        (num_requests,) int64, sorted, >= 0.
    adapter_of
        (num_requests,) int32, row of the adapter in its workload.
    prompt_tokens, output_tokens
        (num_requests,) int32, each >= 1.

    Raises
    ------
    InvalidInputError
        Naming the column.
    """

    arrival_ns: NDArray[np.int64]
    adapter_of: NDArray[np.int32]
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]

    def __post_init__(self) -> None:
        count = self.arrival_ns.shape[0]
        for name in ("adapter_of", "prompt_tokens", "output_tokens"):
            column = getattr(self, name)
            if column.shape != (count,):
                raise InvalidInputError(name, f"must have shape ({count},), got {column.shape}")
        if count == 0:
            return
        if self.arrival_ns[0] < 0:
            raise InvalidInputError("arrival_ns", f"must be >= 0, got {self.arrival_ns[0]}")
        if (self.arrival_ns[1:] < self.arrival_ns[:-1]).any():
            raise InvalidInputError("arrival_ns", "must be sorted")
        for name, minimum in (("adapter_of", 0), ("prompt_tokens", 1), ("output_tokens", 1)):
            smallest = getattr(self, name).min()
            if smallest < minimum:
                raise InvalidInputError(name, f"must be >= {minimum}, got {smallest}")

    @property
    def num_requests(self) -> int:
        """How many requests the stream holds."""
        return self.arrival_ns.shape[0]


def generate_requests(
    workload: Workload, *, horizon_s: float, seed: int, max_model_len: int, max_requests: int = MAX_REQUESTS
) -> RequestStream:
    """Draw the requests of one window; same arguments, same bytes.

    Parameters
    ----------
    workload
        The adapters with rates and lengths.
    horizon_s
        Length of the window, seconds, > 0.
    seed
        Arrivals and lengths each have a generator of their own that is made from it.
    max_model_len
        Prompt and output together are cut to this many tokens.
    max_requests
        The stream ends after so many requests, if the window holds more.

    Raises
    ------
    InvalidInputError
        When the window would hold more than `MAX_REQUESTS` requests and `max_requests` is not lower.
    """
    arrival_rng, length_rng = map(_generator, np.random.SeedSequence(seed).spawn(2))
    arrival_ns, adapter_of = arrivals_of(
        workload, arrival_rng, horizon_s=horizon_s, max_requests=max_requests
    )
    prompt, output = lengths_of(workload, adapter_of, length_rng, max_model_len=max_model_len)
    return RequestStream(
        arrival_ns=arrival_ns, adapter_of=adapter_of, prompt_tokens=prompt, output_tokens=output
    )


def _generator(seed: np.random.SeedSequence) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(seed))
