"""How often somebody may do something, remembered for so many of them and no more."""

from __future__ import annotations

from collections import OrderedDict

MAX_REMEMBERED = 10_000


class RateLimiter:
    """A bucket of tokens for each name: `burst` at most, `rate_rps` new ones a second.

    Of more than `MAX_REMEMBERED` names those that were not seen for longest are forgotten: their buckets
    are full again.
    """

    def __init__(self, *, rate_rps: float, burst: int) -> None:
        self._rate_rps = rate_rps
        self._burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, now_s: float) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        tokens, since_s = self._buckets.get(name, (float(self._burst), now_s))
        tokens = min(float(self._burst), tokens + (now_s - since_s) * self._rate_rps)
        wait_s = 0.0 if tokens >= 1 else (1 - tokens) / self._rate_rps
        self._buckets[name] = (tokens if wait_s else tokens - 1, now_s)
        self._buckets.move_to_end(name)
        if len(self._buckets) > MAX_REMEMBERED:
            self._buckets.popitem(last=False)
        return wait_s
