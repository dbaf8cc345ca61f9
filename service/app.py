"""The HTTP application."""

from __future__ import annotations

import asyncio
import gc
import sys
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog
from fastapi import FastAPI

from service.context import build_context
from service.factory import build_services
from service.handlers import (
    agents,
    docs,
    events,
    fleet,
    health,
    jobs,
    page,
    placement,
    recalibration,
    versions,
)
from service.handlers.bodies import BodyReader
from service.handlers.problems import install_problem_handlers
from service.observability import ObservabilityMiddleware
from service.openapi import openapi_document
from service.security import SecurityMiddleware
from service.services.clock import Clock
from service.services.gauges import show_build
from service.services.guard import Guard
from service.services.recalibration import try_tick
from service.services.refresh import try_round
from service.services.rounds import survived
from service.services.versions import try_refresh
from service.services.warmup import warm_placement
from service.storage.audit import AuditLog
from service.storage.keys import KeyFile
from service.storage.news import listen
from service.storage.turns import turn_of
from service.web.site import load_site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.factory import Services
    from service.peers import Peers
    from service.services.tokens import TokenVerifier
    from service.settings import Settings

GC_THRESHOLDS = (50_000, 20, 100)
SWITCH_INTERVAL_S = 0.0005
"""How long the event loop waits for the interpreter's lock while another thread runs Python: a tenth of
Python's own choice, for a small answer must not wait for the reading of a large body."""

DESCRIPTION = (
    "How many GPUs a fleet of LoRA adapters on vLLM needs, which adapter goes where, "
    "and with which --max-loras."
)

log = structlog.get_logger()


def create_app(settings: Settings, clock: Clock | None = None, peers: Peers | None = None) -> FastAPI:
    """Return the application; calibrations, threads and connections come with its start.

    Parameters
    ----------
    settings, clock
        Without a clock, the machine's.
    peers
        This process among others that share its listening socket: its start ends when it is ready, and the
        others answer until then.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.clock = clock or Clock()
        tokens = _token_verifier(settings, app.state.clock)
        app.state.guard = Guard(settings, KeyFile(settings.keys_path), app.state.clock, tokens)
        services = build_services(build_context(settings), app.state.clock)
        app.state.services = services
        app.state.audit = AuditLog(settings.audit_path)
        app.state.bodies = BodyReader(settings)
        app.state.peers = peers
        tasks = [
            asyncio.create_task(_keep_keys_fresh(app.state.guard, settings.key_refresh_s)),
            asyncio.create_task(listen(settings, services.fleet.hear)),
            asyncio.create_task(services.history.keep()),
            asyncio.create_task(_keep_versions_and_recalibrations(services, settings.refresh_interval_s)),
        ]
        if tokens is not None:
            tasks.append(asyncio.create_task(tokens.keep_fresh()))
        try:
            if peers is not None:
                await _get_ready_in_turn(services)
                await peers.open()
            tasks.append(asyncio.create_task(_live(services)))
            yield
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            if peers is not None:
                await peers.close()
            services.context.close()

    app = FastAPI(
        title="Loadmaster",
        version=version("loadmaster"),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # our own: see `service.tracing`
    )
    app.state.site = load_site(version=app.version)
    for module in (placement, fleet, health, jobs, events, recalibration, versions, agents, docs, page):
        app.include_router(module.router)
    install_problem_handlers(app)
    app.add_middleware(SecurityMiddleware)
    app.add_middleware(ObservabilityMiddleware)
    app.openapi = lambda: openapi_document(app)  # type: ignore[method-assign]
    return app


def _token_verifier(settings: Settings, clock: Clock) -> TokenVerifier | None:
    """Return what tells of a provider's tokens, None where no provider is named."""
    if settings.oidc_issuer is None:
        return None
    from service.services.tokens import TokenVerifier  # noqa: PLC0415 (light imports)

    return TokenVerifier(settings, clock)


async def _live(services: Services) -> None:
    """Get ready, and keep fresh."""
    if not services.context.ready.is_set():
        try:
            await _get_ready(services)
        except Exception:
            log.exception("warm_up_failed")  # readiness stays red
            return
    await services.fleet.keep_fresh()


async def _get_ready(services: Services) -> None:
    """Compile what requests need, take up the workload in force, tell that we are ready."""
    context = services.context
    log.info("getting_ready", what="kernels are compiled or read: a minute or more at the first start")
    await asyncio.to_thread(try_refresh, services.versions)
    await asyncio.to_thread(warm_placement, context.catalog, services.placements)
    show_build(context.catalog)
    await services.fleet.try_refresh()
    _calm_the_collector()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    context.ready.set()
    log.info("ready", calibrations=sorted(context.catalog.targets))


async def _get_ready_in_turn(services: Services) -> None:
    """Get ready while no other process of this `serve` does: the first compiles, the others read."""
    directory = services.context.settings.peers_dir
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with turn_of(directory / "warm-up.lock"):
        await _get_ready(services)


async def _keep_versions_and_recalibrations(services: Services, interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        await asyncio.to_thread(try_refresh, services.versions)
        await asyncio.to_thread(try_tick, services.recalibrations)
        await asyncio.to_thread(try_round, services.refresh, services.placements, services.fleet.in_force)


async def _keep_keys_fresh(guard: Guard, interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        with survived("keys", event="keys_refresh_failed"):
            await asyncio.to_thread(guard.refresh)


def _calm_the_collector() -> None:
    """Keep the garbage collector from walking what lives for ever: it was most of the p99."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
