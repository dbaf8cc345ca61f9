"""Checks of what the service plans with and talks to: calibrations, surrogates, store, workers, agents."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from service.doctor.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.settings import Settings

LARGEST_CLOCK_ERROR_S = 2.0
NO_EVICTION = "noeviction"
NOT_FOUND = 404


def targets() -> Iterator[Finding]:
    """Yield for each shipped calibration whether it, and its surrogate, are sound."""
    from models.artifact import load_shipped  # noqa: PLC0415 (light imports)
    from models.errors import ModelsError  # noqa: PLC0415
    from twin.calibration import load_calibration, shipped_calibration_ids  # noqa: PLC0415
    from twin.errors import TwinError  # noqa: PLC0415

    for calibration_id in shipped_calibration_ids():
        try:
            load_calibration(calibration_id)
            version = load_shipped(calibration_id).version
        except (ModelsError, TwinError) as error:
            yield Finding(
                check="calibration",
                verdict="bad",
                told=f"{calibration_id}: {error}",
                do="train its surrogate again, see CONTRIBUTING.md",
            )
        else:
            yield Finding(check="calibration", verdict="good", told=f"{calibration_id}, surrogate {version}")


def store(settings: Settings) -> Iterator[Finding]:
    """Yield whether the store answers, keeps what it is given and has our time, and who works on it."""
    import redis  # noqa: PLC0415

    from service.storage.connection import connect  # noqa: PLC0415
    from service.storage.embedded import find_server_binary, socket_path  # noqa: PLC0415

    if settings.redis_url is None and not socket_path(settings.store_dir).exists():
        yield Finding(
            check="store",
            verdict="good",
            told=f"embedded, not running now: `serve` starts {find_server_binary().name}",
        )
        return
    client = connect(settings)
    try:
        began_s = time.perf_counter()
        client.ping()
        took_ms = 1e3 * (time.perf_counter() - began_s)
        seconds, microseconds = client.time()  # type: ignore[misc]
        policy = client.info("memory").get("maxmemory_policy", NO_EVICTION)  # type: ignore[union-attr]
        yield Finding(check="store", verdict="good", told=f"answers in {took_ms:.1f} ms")
        yield clock(float(seconds) + 1e-6 * float(microseconds) - time.time())
        yield eviction(str(policy))
        yield _workers(client)
    except redis.RedisError as error:
        yield Finding(
            check="store",
            verdict="bad",
            told=f"does not answer: {error}",
            do="start it, or mend LOADMASTER_REDIS_URL; placements work without it",
        )


def agents(settings: Settings) -> Finding:
    """Return how many agents the running service knows."""
    import httpx  # noqa: PLC0415

    key = os.environ.get("LOADMASTER_KEY")
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104
    try:
        answer = httpx.get(f"http://{host}:{settings.port}/agents", headers=headers, timeout=2)
        rows = answer.json().get("agents") if answer.is_success else None
    except (httpx.HTTPError, ValueError):
        return Finding(check="agents", verdict="good", told="not asked: no service runs here")
    if rows is None:
        reason = "this service has none" if answer.status_code == NOT_FOUND else "set LOADMASTER_KEY to ask"
        return Finding(check="agents", verdict="good", told=f"not known: {reason}")
    return Finding(check="agents", verdict="good", told=f"{len(rows)} known")


def clock(ahead_s: float) -> Finding:
    """Return whether the store's clock is ours, from how many seconds it is ahead."""
    told = f"{ahead_s:+.2f} s between this machine and the store"
    if abs(ahead_s) <= LARGEST_CLOCK_ERROR_S:
        return Finding(check="clock", verdict="good", told=told)
    return Finding(
        check="clock",
        verdict="warning",
        told=told,
        do="synchronise both (chrony, systemd-timesyncd): heartbeats and windows compare times",
    )


def eviction(policy: str) -> Finding:
    """Return whether a store with this `maxmemory-policy` keeps what it is given."""
    if policy == NO_EVICTION:
        return Finding(check="store's memory", verdict="good", told=policy)
    return Finding(
        check="store's memory",
        verdict="bad",
        told=f"maxmemory-policy is {policy}: jobs and workloads may be thrown away",
        do="CONFIG SET maxmemory-policy noeviction",
    )


def _workers(client: object) -> Finding:
    from rq import Worker  # noqa: PLC0415

    from service.storage.jobs import TWIN_QUEUE  # noqa: PLC0415

    count = Worker.count(connection=client)  # type: ignore[arg-type]
    waiting = client.llen(f"rq:queue:{TWIN_QUEUE}")  # type: ignore[attr-defined]
    told = f"{count} on this store, {waiting} jobs wait"
    if count:
        return Finding(check="workers", verdict="good", told=told)
    return Finding(
        check="workers", verdict="warning", told=told, do="start `loadmaster worker`: jobs and replays wait"
    )
