"""Tokens of an OpenID Connect provider: who asks, told by a signature that was checked in memory.

The provider's public keys are fetched behind the requests, never by one. A token is checked against the keys
that are known; one that names an unknown key has them fetched again soon.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import orjson
import structlog

from service.errors import UsageError
from service.observability import LOOP_ERRORS
from service.services.keys import SCOPES, Caller

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jwt import PyJWK

    from service.services.clock import Clock
    from service.services.keys import Scope
    from service.settings import Settings

MAX_TOKEN_BYTES = 8192
MAX_ANSWER_BYTES = 2**20
MAX_KEYS = 64
MIN_RSA_BITS = 2048
MIN_PAUSE_S = 5.0
"""Between two fetches, however many tokens name unknown keys."""

MAX_AGE_S = 86_400.0
"""A provider that is away for longer opens nothing any more."""

DISCOVERY = "/.well-known/openid-configuration"

_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

log = structlog.get_logger()


class ProviderError(Exception):
    """What the provider answered is not what OpenID Connect says."""


def check_provider(settings: Settings) -> None:
    """Refuse settings of a provider that cannot work.

    Raises
    ------
    UsageError
        The extra ``oidc`` is not installed, or an address is neither https nor this machine's.
    """
    if settings.oidc_issuer is None:
        return
    if importlib.util.find_spec("jwt") is None:
        raise UsageError("LOADMASTER_OIDC_ISSUER needs the extra `oidc`: pip install -e '.[oidc]'")
    _checked_url(settings.oidc_issuer, "LOADMASTER_OIDC_ISSUER")
    if settings.oidc_jwks_url is not None:
        _checked_url(settings.oidc_jwks_url, "LOADMASTER_OIDC_JWKS_URL")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownKeys:
    """The provider's public keys for signatures by their ids, and when they came, on the monotonic clock."""

    by_id: Mapping[str, PyJWK]
    at_s: float


class TokenVerifier:
    """Tells who a token speaks for; see `check_provider` for what the settings must hold."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        assert settings.oidc_issuer is not None, "the settings name a provider"
        check_provider(settings)
        self._settings = settings
        self._issuer = settings.oidc_issuer
        self._clock = clock
        self._keys: KnownKeys | None = None
        self._wanted = asyncio.Event()

    def find(self, text: str) -> Caller | None:
        """Return whom a token speaks for, None where it does not hold.

        It must be signed with a known key by an allowed algorithm, name issuer, audience and subject, and be
        of now. Scopes that mean nothing here open nothing.
        """
        import jwt  # noqa: PLC0415 (an extra)

        if len(text) > MAX_TOKEN_BYTES or not _TOKEN.fullmatch(text):
            return None
        try:
            header = jwt.get_unverified_header(text)
            key = self._key_of(header.get("kid"))
            if key is None or header.get("alg") != key.algorithm_name:
                return None
            claims = jwt.decode(
                text,
                key,
                algorithms=list(self._settings.oidc_algorithms),
                audience=self._settings.oidc_audience,
                issuer=self._issuer,
                leeway=self._settings.oidc_leeway_s,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except (jwt.PyJWTError, ValueError):
            return None
        subject = claims["sub"][:100]
        scopes = self._scopes(claims.get(self._settings.oidc_scope_claim))
        return Caller(caller_id=f"token:{subject}", name=f"{subject} (token)", scopes=scopes)

    def _key_of(self, key_id: Any) -> PyJWK | None:
        if self._keys is None or not isinstance(key_id, str):
            return None
        if self._clock.monotonic_s() - self._keys.at_s > MAX_AGE_S:
            return None
        key = self._keys.by_id.get(key_id)
        if key is None:
            self._wanted.set()
        return key

    def _scopes(self, claim: Any) -> frozenset[Scope]:
        given = claim.split() if isinstance(claim, str) else claim
        if not isinstance(given, list):
            return frozenset()
        meant = {self._settings.oidc_scopes.get(name) for name in given if isinstance(name, str)}
        return frozenset(scope for scope in SCOPES if scope in meant)

    async def keep_fresh(self) -> None:
        """Fetch the keys now, every `oidc_refresh_s`, and soon after a token named an unknown one."""
        while True:
            await self.try_fetch()
            self._wanted.clear()
            await asyncio.sleep(MIN_PAUSE_S)
            try:
                async with asyncio.timeout(self._settings.oidc_refresh_s):
                    await self._wanted.wait()
            except TimeoutError:
                pass

    async def try_fetch(self) -> None:
        """Fetch the keys; where that fails those that are known stay, and it is counted."""
        try:
            by_id = await self._fetch()
        except (httpx.HTTPError, ProviderError, ValueError) as error:
            LOOP_ERRORS.labels("oidc").inc()
            log.warning("oidc_keys_not_fetched", issuer=self._issuer, reason=str(error) or repr(error))
            return
        self._keys = KnownKeys(by_id=by_id, at_s=self._clock.monotonic_s())

    async def _fetch(self) -> Mapping[str, PyJWK]:
        timeout_s = self._settings.oidc_timeout_s
        async with asyncio.timeout(4 * timeout_s), httpx.AsyncClient(timeout=timeout_s) as client:
            url = self._settings.oidc_jwks_url or await self._discovered(client)
            document = await _json_of(client, _checked_url(url, "the provider's jwks_uri"))
        return _usable_keys(document, self._settings.oidc_algorithms)

    async def _discovered(self, client: httpx.AsyncClient) -> str:
        document = await _json_of(client, self._issuer.rstrip("/") + DISCOVERY)
        if document.get("issuer") != self._issuer or not isinstance(document.get("jwks_uri"), str):
            raise ProviderError("its configuration names another issuer, or no jwks_uri")
        return document["jwks_uri"]


async def _json_of(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    body = b""
    async with client.stream("GET", url) as answer:
        answer.raise_for_status()
        async for chunk in answer.aiter_bytes():
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise ProviderError(f"{url} answers more than {MAX_ANSWER_BYTES} bytes")
    value = orjson.loads(body)
    if not isinstance(value, dict):
        raise ProviderError(f"{url} answers no object")
    return value


def _usable_keys(document: Mapping[str, Any], algorithms: tuple[str, ...]) -> Mapping[str, PyJWK]:
    """Return the keys for signatures by allowed algorithms; others are of no concern here."""
    import jwt  # noqa: PLC0415 (an extra)

    entries = document.get("keys")
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise ProviderError(f"answers no list of keys, or more than {MAX_KEYS}")
    usable: dict[str, PyJWK] = {}
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(entry)
        except jwt.PyJWTError:  # a kind that we do not know
            continue
        is_weak = entry.get("kty") == "RSA" and key.key.key_size < MIN_RSA_BITS
        if key.algorithm_name in algorithms and isinstance(entry.get("kid"), str) and not is_weak:
            usable[entry["kid"]] = key
    return usable


def _checked_url(url: str, name: str) -> str:
    """Return an address whose answers nobody on the way can change: https, or this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or (
        parts.scheme == "http" and parts.hostname in {"127.0.0.1", "::1", "localhost"}
    ):
        return url
    raise UsageError(f"must be https, got {url!r}", field=name)
