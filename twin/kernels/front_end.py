"""The API server in front of the engine, where requests queue before the scheduler sees them."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def front_end_ready_ns(arrival_ns, adapter_of, num_adapters, first_use_ns):
    """Return when each request reaches the engine, (num_requests,) int64, sorted.

    The API server works on one request at a time. The first request for an adapter keeps it busy for
    `first_use_ns` (it reads the adapter's tokenizer); others pass at once, but behind those before
    them.

    Parameters
    ----------
    arrival_ns
        (num_requests,) int64, sorted.
    adapter_of
        (num_requests,) int32.
    num_adapters, first_use_ns
        Integers.
    """
    ready_ns = np.empty_like(arrival_ns)
    seen = np.zeros(num_adapters, np.bool_)
    num_unseen = num_adapters
    free_ns = 0
    for request in range(arrival_ns.shape[0]):
        if num_unseen == 0 and free_ns <= arrival_ns[request]:
            ready_ns[request:] = arrival_ns[request:]
            break
        free_ns = max(free_ns, arrival_ns[request])
        if not seen[adapter_of[request]]:
            seen[adapter_of[request]] = True
            num_unseen -= 1
            free_ns += first_use_ns
        ready_ns[request] = free_ns
    return ready_ns


@njit(cache=True, nogil=True)
def count_from_the_client(arrival_ns, ready_ns, sent_ns, num_sent):
    """Move `sent_ns` of requests that met no limit from the engine's door to the client's.

    Parameters
    ----------
    arrival_ns, ready_ns, sent_ns
        (num_requests,) int64: when each was due, reached the engine, and entered it.
    num_sent
        Only the first so many requests entered the engine.
    """
    for request in range(num_sent):
        if sent_ns[request] == ready_ns[request]:
            sent_ns[request] = arrival_ns[request]
