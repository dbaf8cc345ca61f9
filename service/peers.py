"""The metrics of all processes of one `serve`, told by whichever of them is asked.

Each process tells its own metrics to whoever connects to its unix socket, and asks the others when it is
asked over HTTP. What a process counts gets the label ``process``; what all of them know alike (the plans in
force) is told once.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.observability import KNOWN_ALIKE, LOOP_ERRORS, REGISTRY
from service.sockets import own_directory, socket_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from prometheus_client import Metric

ASK_DEADLINE_S = 1.0
MAX_BYTES = 4 * 2**20
SUFFIX = ".metrics"
LABEL = "process"

log = structlog.get_logger()


class Peers:
    """One process among those of the same `serve`.

    Parameters
    ----------
    directory
        Where the sockets of all of them are.
    name
        Of the process.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = socket_directory(directory)
        self._name = name
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Tell metrics from now on."""
        own_directory(self._directory)
        path = self._directory / f"{self._name}{SUFFIX}"
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(_tell, path)

    async def close(self) -> None:
        """Tell nothing more."""
        if self._server is not None:
            self._server.close()
            (self._directory / f"{self._name}{SUFFIX}").unlink(missing_ok=True)

    async def metrics(self) -> bytes:
        """Return the metrics of all processes in Prometheus's text format; one that is silent is counted."""
        others = [path for path in sorted(self._directory.glob(f"*{SUFFIX}")) if path.stem != self._name]
        answers = await asyncio.gather(*map(_ask, others))
        texts = {path.stem: text for path, text in zip(others, answers, strict=True) if text is not None}
        return merged({self._name: generate_latest(REGISTRY).decode()} | texts)


def merged(texts: Mapping[str, str]) -> bytes:
    """Return several processes' metrics as one text.

    Parameters
    ----------
    texts
        Each process's own by its name; what is `KNOWN_ALIKE` is taken from the first.
    """
    families: dict[str, Metric] = {}
    for number, (process, text) in enumerate(texts.items()):
        for family in text_string_to_metric_families(text):
            alike = family.name in KNOWN_ALIKE
            if alike and number > 0:
                continue
            label = {} if alike else {LABEL: process}
            samples = [sample._replace(labels=sample.labels | label) for sample in family.samples]
            family.samples = samples
            if family.name in families:
                families[family.name].samples += samples
            else:
                families[family.name] = family
    registry = CollectorRegistry()
    registry.register(_Told(families.values()))
    return generate_latest(registry)


class _Told:
    """Families of metrics, as a registry collects them."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        yield from self._families


async def _tell(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):  # whoever asked has gone
        writer.write(generate_latest(REGISTRY))
        await writer.drain()
    writer.close()


async def _ask(path: Path) -> str | None:
    """Return what a process tells, None where it is silent."""
    try:
        async with asyncio.timeout(ASK_DEADLINE_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                return (await _read(reader)).decode()
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError) as error:
        LOOP_ERRORS.labels("metrics").inc()
        log.warning("process_is_silent", process=path.stem, reason=str(error))
        return None


async def _read(reader: asyncio.StreamReader) -> bytes:
    text = b""
    while chunk := await reader.read(2**16):
        text += chunk
        if len(text) > MAX_BYTES:
            raise ValueError(f"tells more than {MAX_BYTES} bytes")
    return text
