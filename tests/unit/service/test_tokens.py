import asyncio
import base64
import json
import time

import pytest

from service.errors import UnauthenticatedError, UsageError
from service.services.clock import Clock
from service.services.guard import Guard
from service.settings import Settings
from service.storage.keys import KeyFile

jwt = pytest.importorskip("jwt", reason="the extra oidc is not installed")

from service.services import tokens  # noqa: E402
from service.services.tokens import MAX_AGE_S, TokenVerifier, check_provider  # noqa: E402
from tests.support.token_provider import TokenProvider  # noqa: E402


@pytest.fixture(scope="module")
def own_provider():
    provider = TokenProvider()
    yield provider
    provider.close()


@pytest.fixture
def provider(own_provider):
    yield own_provider
    own_provider.answer = own_provider.answer_well


class HandClock:
    now_s = 0.0

    def as_clock(self):
        return Clock(monotonic_s=lambda: self.now_s, wall_s=time.time)


def a_verifier(provider, hand=None, **changes):
    settings = Settings(oidc_issuer=provider.issuer, oidc_leeway_s=0, **changes)
    verifier = TokenVerifier(settings, (hand or HandClock()).as_clock())
    asyncio.run(verifier.try_fetch())
    return verifier


def test_a_token_speaks_for_its_subject_with_the_scopes_that_mean_something(provider):
    verifier = a_verifier(provider, oidc_scopes={"lm:plan": "place", "lm:run": "ops"})
    caller = verifier.find(provider.token(scope="openid lm:plan lm:run place"))
    assert (caller.name, caller.scopes) == ("robot (token)", {"place", "ops"})
    assert verifier.find(provider.token(scope=None)).scopes == set()
    assert verifier.find(provider.token(scope=["lm:plan", 3])).scopes == {"place"}
    assert verifier.find(provider.token(scope={"lm:plan": 1})).scopes == set()


def test_scopes_may_come_in_another_claim(provider):
    verifier = a_verifier(provider, oidc_scope_claim="roles")
    assert verifier.find(provider.token(roles=["ops"])).scopes == {"ops"}


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "http://127.0.0.1/other"},
        {"aud": "another service"},
        {"aud": None},
        {"sub": None},
        {"iat": None},
        {"exp": None},
        {"exp": int(time.time()) - 5},
        {"nbf": int(time.time()) + 600},
        {"sub": 7},
    ],
    ids=str,
)
def test_a_token_that_is_not_for_us_or_not_of_now_opens_nothing(provider, changes):
    assert a_verifier(provider).find(provider.token(**changes)) is None


def test_clocks_may_differ_by_the_leeway(provider):
    late = provider.token(exp=int(time.time()) - 5)
    assert a_verifier(provider).find(late) is None
    settings = Settings(oidc_issuer=provider.issuer, oidc_leeway_s=60)
    verifier = TokenVerifier(settings, Clock())
    asyncio.run(verifier.try_fetch())
    assert verifier.find(late) is not None


def test_a_signature_that_is_not_the_providers_opens_nothing(provider):
    verifier = a_verifier(provider)
    right = provider.token()
    head, claims, signature = right.split(".")
    key = {"kid": "first"}
    public = provider.private["first"][0].public_key()
    forged = [
        f"{head}.{claims}.{signature[:-6]}AAAAAA",
        f"{head}.{claims}.",
        f"{head}.{provider.token(scope='ops').split('.')[1]}.{signature}",
        jwt.encode(provider.claims(scope="ops"), None, algorithm="none", headers=key),
        jwt.encode(
            provider.claims(scope="ops"), str(public.public_numbers().n), algorithm="HS256", headers=key
        ),
        jwt.encode(
            provider.claims(scope="ops"), provider.private["first"][0], algorithm="PS256", headers=key
        ),
        jwt.encode(provider.claims(scope="ops"), provider.private["first"][0], algorithm="RS256"),
        "a.b.c",
        right + "x" * 9000,
        "",
    ]
    assert verifier.find(right) is not None
    for text in forged:
        assert verifier.find(text) is None


def test_an_algorithm_that_is_not_allowed_is_not_taken_though_the_provider_signs_with_it(provider):
    provider.add_key("curve", "ES256")
    token = provider.token("curve")
    assert a_verifier(provider).find(token) is not None
    assert a_verifier(provider, oidc_algorithms=("RS256",)).find(token) is None
    del provider.public["curve"]


def test_a_key_that_is_new_is_known_after_the_next_fetch_which_its_token_asks_for(provider, monkeypatch):
    monkeypatch.setattr(tokens, "MIN_PAUSE_S", 0.0)
    verifier = a_verifier(provider, oidc_refresh_s=3600)

    async def scenario():
        fresh = asyncio.create_task(verifier.keep_fresh())
        provider.add_key("second", "RS256")
        token = provider.token("second")
        async with asyncio.timeout(10):
            while verifier.find(token) is None:  # noqa: ASYNC110 (a fetch gives no event)
                await asyncio.sleep(0.01)
        fresh.cancel()

    asyncio.run(scenario())
    del provider.public["second"]


def endless(_path):
    return b'{"keys": [' + b"0," * tokens.MAX_ANSWER_BYTES


@pytest.mark.parametrize(
    "answer",
    [
        lambda _path: None,
        lambda _path: b"<html>",
        lambda _path: b"[]",
        lambda _path: b'{"issuer": "https://evil.example", "jwks_uri": "https://evil.example/keys"}',
        lambda _path: b'{"keys": 3}',
        endless,
    ],
)
def test_a_provider_that_misbehaves_changes_nothing_for_a_day(provider, answer):
    hand = HandClock()
    verifier = a_verifier(provider, hand)
    token = provider.token()
    provider.answer = answer
    hand.now_s = MAX_AGE_S
    asyncio.run(verifier.try_fetch())
    assert verifier.find(token) is not None
    hand.now_s = MAX_AGE_S + 1
    asyncio.run(verifier.try_fetch())
    assert verifier.find(token) is None


def test_a_shared_secret_among_the_keys_is_not_one_of_them(provider):
    shared = b"s" * 48
    encoded = base64.urlsafe_b64encode(shared).decode()
    secret = {"kty": "oct", "k": encoded, "kid": "first", "alg": "HS256"}
    provider.answer = lambda path: (
        provider.answer_well(path)
        if "well-known" in path
        else b'{"keys": [%s]}' % json.dumps(secret).encode()
    )
    verifier = a_verifier(provider)
    forged = jwt.encode(provider.claims(), shared, algorithm="HS256", headers={"kid": "first"})
    assert verifier.find(forged) is None


@pytest.mark.parametrize("name", ["oidc_issuer", "oidc_jwks_url"])
def test_keys_do_not_travel_where_others_could_change_them(name):
    changes = {"oidc_issuer": "https://login.example"} | {name: "http://login.example"}
    with pytest.raises(UsageError, match="https"):
        check_provider(Settings(**changes))


def test_with_a_provider_alone_nothing_is_open(provider, tmp_path):
    guard = Guard(Settings(data_dir=tmp_path), KeyFile(tmp_path / "keys.json"), Clock(), a_verifier(provider))

    def admit(authorization):
        return guard.admit("GET", "/plan", host="localhost", authorization=authorization, address="127.0.0.1")

    assert admit(f"Bearer {provider.token()}")[0] == "robot (token)"
    for refused in (None, "Bearer nonsense", f"Basic {provider.token()}"):
        with pytest.raises(UnauthenticatedError):
            admit(refused)
