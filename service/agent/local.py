"""A calibration by hand, without a service: points and the finished set in a directory."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from service.agent.calibration import Session, Subject
from service.agent.errors import AgentError
from service.agent.hardware import find_engine_version, find_hardware
from service.agent.materials import SMALL_MODEL, make_model, make_tokenizer, read_config
from service.agent.points import PointFile, tables_of
from service.agent.server import VllmServer, end_leftovers
from twin.measurement_set import Manifest
from twin.shapes import shape_from_config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from service.agent.calibration import Summary
    from service.agent.hardware import Hardware
    from service.agent.settings import AgentSettings

SMALL_MODEL_NAME = "small-random-llama"
"""A base model that needs no files: the agent makes it. For processors and for trying things out."""


@contextmanager
def owned_home(home: Path) -> Iterator[None]:
    """Be the only agent of a home, with what an earlier one left behind ended.

    Raises
    ------
    AgentError
        Another agent has it.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(home / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AgentError(f"{home} is in use by another agent") from None
        end_leftovers(home)
        yield
    finally:
        os.close(handle)


def subject_of(settings: AgentSettings, base_model: str) -> Subject:
    """Return what to calibrate of a base model that the settings know.

    Raises
    ------
    AgentError
        The settings do not name it.
    """
    if base_model in settings.models:
        model = settings.models[base_model]
    elif base_model == SMALL_MODEL_NAME:
        model = make_model(settings.home / "models" / SMALL_MODEL_NAME, SMALL_MODEL)
    else:
        known = ", ".join(sorted({*settings.models, SMALL_MODEL_NAME}))
        raise AgentError(f"LOADMASTER_AGENT_MODELS does not name {base_model!r}; known: {known}")
    config = read_config(model)
    shape = shape_from_config(config)
    if os.access(model, os.W_OK):
        make_tokenizer(model, shape.vocab_size)
    return Subject(
        base_model=base_model,
        model=model.resolve(),
        config=config,
        shape=shape,
        adapters=settings.home / "adapters" / base_model,
    )


def manifest_of(settings: AgentSettings, hardware: Hardware, subject: Subject, summary: Summary) -> Manifest:
    """Return what a finished set says of itself."""
    return Manifest(
        gpu_type=hardware.gpu_type,
        base_model=subject.base_model,
        engine_version=summary.engine_version or find_engine_version(settings),
        agent_id=settings.agent_id,
        model_config=dict(subject.config),
        command=settings.command,
        device=f"{hardware.name} {hardware.driver}".strip(),
        measured_on=datetime.now(UTC).date().isoformat(),
        uncertain=summary.uncertain,
    )


def calibrate_locally(settings: AgentSettings, base_model: str, out: Path) -> Summary:
    """Measure a base model on this machine and write the set to a directory; a killed call goes on.

    Raises
    ------
    AgentError
        Another agent is at work, or no server starts.
    """
    hardware = find_hardware(settings.gpu_type)
    out.mkdir(parents=True, exist_ok=True)
    with owned_home(settings.home):
        subject = subject_of(settings, base_model)
        points = PointFile(out / "points.jsonl")
        with VllmServer(settings, subject.model, subject.shape) as server:
            summary = Session(settings=settings, subject=subject, server=server, sink=points).run()
    manifest = manifest_of(settings, hardware, subject, summary)
    for name, content in tables_of(points.known().values(), manifest).items():
        (out / name).write_bytes(content)
    return summary
