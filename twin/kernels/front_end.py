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
    free_ns = 0
    for request in range(arrival_ns.shape[0]):
        free_ns = max(free_ns, arrival_ns[request])
        if not seen[adapter_of[request]]:
            seen[adapter_of[request]] = True
            free_ns += first_use_ns
        ready_ns[request] = free_ns
    return ready_ns
