"""What one process is made of: built once, frozen, handed to whatever answers."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.services.bounded import BoundedPool
from service.services.catalog import Catalog, load_catalog
from service.storage.connection import connect
from service.storage.files import FileExchange
from service.storage.versions import VersionStore

if TYPE_CHECKING:
    import redis

    from service.settings import Settings

STORE_THREADS = 4
STORE_BACKLOG = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessContext:
    """Settings, what is loaded, and the pools and connections that everything shares.

    Attributes
    ----------
    files, versions
        What hosts share: on disk, and in the store.
    ready
        Set once the kernels are compiled.
    """

    settings: Settings
    catalog: Catalog
    client: redis.Redis
    files: FileExchange
    versions: VersionStore
    place_pool: BoundedPool
    store_pool: BoundedPool
    ready: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        """End the threads and connections."""
        self.place_pool.close()
        self.store_pool.close()
        self.client.close()


def build_context(settings: Settings) -> ProcessContext:
    """Load calibrations and surrogates; the store is reached at first use only."""
    client = connect(settings)
    files = FileExchange(settings.data_dir, client)
    return ProcessContext(
        settings=settings,
        catalog=load_catalog(),
        client=client,
        files=files,
        versions=VersionStore(files),
        place_pool=BoundedPool(
            "place",
            num_threads=settings.place_threads,
            backlog=settings.place_backlog,
            deadline_s=settings.place_deadline_s,
        ),
        store_pool=BoundedPool(
            "store",
            num_threads=STORE_THREADS,
            backlog=STORE_BACKLOG,
            deadline_s=4 * settings.store_timeout_s,
        ),
    )
