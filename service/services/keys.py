"""API keys: made once, kept as hashes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from service.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

Scope = Literal["place", "ops", "agent"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "lm"
ID_BYTES = 6
SECRET_BYTES = 32
"""256 random bits: a plain hash of them cannot be searched, so it need not be slow."""

_TEXT = re.compile(rf"{PREFIX}_([0-9a-f]{{{2 * ID_BYTES}}})_([A-Za-z0-9_-]{{43}})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}")
_NOBODY = hashlib.sha256(b"nobody").hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as it is kept: who has it, what it opens, and the hash of its secret.

    Attributes
    ----------
    key_id
        Part of the key's text; no secret.
    name
        Who or what has it.
    scopes
        What it opens.
    secret_sha256
        Hexadecimal.
    created_at_s, expires_at_s, revoked_at_s
        Seconds since the epoch; None where it does not apply.
    """

    key_id: str
    name: str
    scopes: tuple[Scope, ...]
    secret_sha256: str
    created_at_s: float
    expires_at_s: float | None = None
    revoked_at_s: float | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidRequestError(
                f"must be 1 to 64 letters, digits, spaces or ._@-, got {self.name[:80]!r}", field="name"
            )
        if not self.scopes or not set(self.scopes) <= set(SCOPES):
            raise InvalidRequestError(f"must be some of {', '.join(SCOPES)}", field="scope")
        if not re.fullmatch("[0-9a-f]{64}", self.secret_sha256):
            raise InvalidRequestError("must be a SHA-256 in hexadecimal", field="secret_sha256")

    def is_active(self, now_s: float) -> bool:
        """Whether it opens anything at a time."""
        return self.revoked_at_s is None and (self.expires_at_s is None or now_s < self.expires_at_s)


def make_key(
    name: str, scopes: Iterable[Scope], *, now_s: float, expires_at_s: float | None = None
) -> tuple[ApiKey, str]:
    """Return a new key as it is kept, and its text, which is told once and kept nowhere."""
    key_id, secret = secrets.token_hex(ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
    key = ApiKey(
        key_id=key_id,
        name=name,
        scopes=tuple(sorted(set(scopes))),
        secret_sha256=_digest(secret),
        created_at_s=now_s,
        expires_at_s=expires_at_s,
    )
    return key, f"{PREFIX}_{key_id}_{secret}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, by an API key or a token.

    Attributes
    ----------
    caller_id
        What limits are counted by; no secret.
    name
        For the audit log.
    scopes
        What it opens.
    """

    caller_id: str
    name: str
    scopes: frozenset[Scope]


class KeyRing:
    """Every key that was ever made, active or not."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self.keys = tuple(keys)
        self._by_id = {key.key_id: key for key in self.keys}

    def has_active(self, now_s: float) -> bool:
        """Whether some key opens something."""
        return any(key.is_active(now_s) for key in self.keys)

    def find(self, authorization: str, now_s: float) -> ApiKey | None:
        """Return the active key of an ``Authorization`` header, None where there is none.

        An unknown id costs the same comparison as a wrong secret.
        """
        scheme, _, text = authorization.partition(" ")
        match = _TEXT.fullmatch(text.strip())
        if scheme.lower() != "bearer" or match is None:
            return None
        key = self._by_id.get(match[1])
        expected = _NOBODY if key is None else key.secret_sha256
        is_right = hmac.compare_digest(_digest(match[2]), expected)
        return key if key is not None and is_right and key.is_active(now_s) else None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
