"""Who may do what: keys, scopes, and how often."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from service.errors import ForbiddenError, KeyFileError, RateLimitedError, UnauthenticatedError
from service.observability import LOOP_ERRORS

if TYPE_CHECKING:
    from service.services.clock import Clock
    from service.services.keys import ApiKey, Scope
    from service.settings import Settings
    from service.storage.keys import KeyFile

OPEN_PATHS = frozenset({"/livez", "/readyz", "/docs", "/openapi.json"})
"""Probes and the API's description: no key is asked for."""

PLANNING_PATHS = frozenset({"/place", "/re-place", "/what-if", "/simulate"})
"""What is posted there changes nothing that is in force."""

AGENT_PREFIXES = ("/agents", "/measurements")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a request needs.

    Attributes
    ----------
    scopes
        A key must have one of them; empty asks for none.
    audited
        Whether it changes what is in force.
    """

    scopes: frozenset[Scope]
    audited: bool


NOTHING = Access(scopes=frozenset(), audited=False)
READING = Access(scopes=frozenset({"place", "ops"}), audited=False)
MEASURING = Access(scopes=frozenset({"agent", "ops"}), audited=False)
METRICS = Access(scopes=frozenset({"place", "ops", "agent"}), audited=False)
OPERATING = Access(scopes=frozenset({"ops"}), audited=True)


def access_of(method: str, path: str) -> Access:
    """Return what a request needs; whatever is not known to be harmless is for `ops`."""
    if path in OPEN_PATHS and method in SAFE_METHODS:
        return NOTHING
    if path == "/metrics":
        return METRICS
    if any(path == prefix or path.startswith(f"{prefix}/") for prefix in AGENT_PREFIXES):
        return MEASURING
    if method in SAFE_METHODS or (method == "POST" and path in PLANNING_PATHS):
        return READING
    return OPERATING


class RateLimiter:
    """A bucket of tokens for each key: `burst` at most, `rate_rps` new ones a second."""

    def __init__(self, *, rate_rps: float, burst: int) -> None:
        self._rate_rps = rate_rps
        self._burst = burst
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key_id: str, now_s: float) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        tokens, since_s = self._buckets.get(key_id, (float(self._burst), now_s))
        tokens = min(float(self._burst), tokens + (now_s - since_s) * self._rate_rps)
        if tokens < 1:
            self._buckets[key_id] = (tokens, now_s)
            return (1 - tokens) / self._rate_rps
        self._buckets[key_id] = (tokens - 1, now_s)
        return 0.0


class Guard:
    """Decides on each request. Without any key, on loopback, everything is open to this machine.

    Once a key was seen, one is asked for until the process ends, whatever becomes of the file.
    """

    def __init__(self, settings: Settings, file: KeyFile, clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._allowed_hosts = frozenset(settings.allowed_hosts)
        self._limiter = RateLimiter(rate_rps=settings.key_rate_rps, burst=settings.key_burst)
        self._signature = file.signature()
        self._ring = file.load()
        self._closed = bool(self._ring.keys)

    def admit(self, method: str, path: str, *, host: str, authorization: str | None) -> tuple[str, Access]:
        """Return who asks, and what the request needed.

        Raises
        ------
        UnauthenticatedError, ForbiddenError, RateLimitedError
            It is refused.
        """
        access = access_of(method, path)
        if not self._closed:
            if not self._is_local(host):
                raise ForbiddenError(
                    f"without an API key this machine alone is answered, by its own name, not {host[:100]!r}"
                )
            return "anyone", access
        if not access.scopes:
            return "anyone", access
        key = None if authorization is None else self._ring.find(authorization, self._clock.wall_s())
        if key is None:
            raise UnauthenticatedError("a valid API key is needed: Authorization: Bearer lm_...")
        self._check_rate(key)
        if access.scopes.isdisjoint(key.scopes):
            needed = " or ".join(sorted(access.scopes))
            raise ForbiddenError(f"the key {key.key_id} lacks the scope {needed}")
        return f"{key.name} ({key.key_id})", access

    def _check_rate(self, key: ApiKey) -> None:
        wait_s = self._limiter.take(key.key_id, self._clock.monotonic_s())
        if wait_s > 0:
            raise RateLimitedError(
                f"the key {key.key_id} asks too often", retry_after_s=max(1, math.ceil(wait_s))
            )

    def _is_local(self, host: str) -> bool:
        """Whether a ``Host`` header names this machine: another name is a web page's that rebound its DNS."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        name = name.strip("[]").lower()
        if name in {"", "localhost"} or name in self._allowed_hosts:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

    def refresh(self) -> None:
        """Read the keys again if the file has changed; one that cannot be read changes nothing."""
        signature = self._file.signature()
        if signature == self._signature:
            return
        try:
            self._ring = self._file.load()
        except KeyFileError as error:
            LOOP_ERRORS.labels("keys").inc()
            log.error("keys_refused", reason=str(error))  # noqa: TRY400
        else:
            log.info("keys_read", num_keys=len(self._ring.keys))
        self._signature = signature
        self._closed = self._closed or bool(self._ring.keys)
