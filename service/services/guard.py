"""Who may do what: keys, scopes, and how often."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from service.errors import ForbiddenError, KeyFileError, RateLimitedError, UnauthenticatedError
from service.observability import AUTH_FAILURES, LOOP_ERRORS
from service.services.keys import Caller
from service.services.rate_limit import RateLimiter

if TYPE_CHECKING:
    from service.services.clock import Clock
    from service.services.keys import Scope
    from service.services.tokens import TokenVerifier
    from service.settings import Settings
    from service.storage.keys import KeyFile

OPEN_PATHS = frozenset({"/", "/livez", "/readyz", "/docs", "/openapi.json"})
"""Probes, the API's description, and the ops page, which holds no data: no key is asked for."""

PAGE_FILES = "/static/"
"""What the ops page loads."""

PLANNING_PATHS = frozenset({"/place", "/re-place", "/what-if", "/simulate"})
"""What is posted there changes nothing that is in force."""

REPORT = ("PUT", "/gpus-running")
"""Remembered beside what is in force; it changes none of it."""

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
    if method in SAFE_METHODS and (path in OPEN_PATHS or path.startswith(PAGE_FILES)):
        return NOTHING
    if path == "/metrics":
        return METRICS
    if any(path == prefix or path.startswith(f"{prefix}/") for prefix in AGENT_PREFIXES):
        return MEASURING
    if method in SAFE_METHODS or (method == "POST" and path in PLANNING_PATHS) or (method, path) == REPORT:
        return READING
    return OPERATING


class Guard:
    """Decides on each request. Without any key, on loopback, everything is open to this machine.

    Once a key was seen, one is asked for until the process ends, whatever becomes of the file.

    Parameters
    ----------
    settings, file, clock
        Limits, API keys, and the time.
    tokens
        What tells of an OpenID Connect provider's tokens, where one is named.
    """

    def __init__(
        self, settings: Settings, file: KeyFile, clock: Clock, tokens: TokenVerifier | None = None
    ) -> None:
        self._file = file
        self._clock = clock
        self._tokens = tokens
        self._allowed_hosts = frozenset(settings.allowed_hosts)
        self._limiter = RateLimiter(rate_rps=settings.key_rate_rps, burst=settings.key_burst)
        self._failures = RateLimiter(rate_rps=settings.auth_failures_rps, burst=settings.auth_failures_burst)
        self._signature = file.signature()
        self._ring = file.load()
        self._closed = bool(self._ring.keys) or tokens is not None

    def admit(
        self, method: str, path: str, *, host: str, authorization: str | None, address: str
    ) -> tuple[str, Access]:
        """Return who asks, and what the request needed.

        An address that fails too often is told to wait; a request with a good key is answered all the same:
        others may ask from behind the same address.

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
        caller = None if authorization is None else self._caller(authorization)
        if caller is None:
            AUTH_FAILURES.inc()
            self._check(self._failures, _network_of(address), f"{address} fails to authenticate too often")
            raise UnauthenticatedError("a valid API key is needed: Authorization: Bearer lm_...")
        self._check(self._limiter, caller.caller_id, f"{caller.caller_id} asks too often")
        if access.scopes.isdisjoint(caller.scopes):
            needed = " or ".join(sorted(access.scopes))
            raise ForbiddenError(f"{caller.caller_id} lacks the scope {needed}")
        return caller.name, access

    def _caller(self, authorization: str) -> Caller | None:
        key = self._ring.find(authorization, self._clock.wall_s())
        if key is not None:
            return Caller(
                caller_id=f"the key {key.key_id}",
                name=f"{key.name} ({key.key_id})",
                scopes=frozenset(key.scopes),
            )
        scheme, _, text = authorization.partition(" ")
        if self._tokens is None or scheme.lower() != "bearer":
            return None
        return self._tokens.find(text.strip())

    def _check(self, limiter: RateLimiter, name: str, detail: str) -> None:
        wait_s = limiter.take(name, self._clock.monotonic_s())
        if wait_s > 0:
            raise RateLimitedError(detail, retry_after_s=max(1, math.ceil(wait_s)))

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


def _network_of(address: str) -> str:
    """Return what one sender can choose among: an IPv4 address, or 64 bits of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    return address if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))  # noqa: PLR2004
