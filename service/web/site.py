"""The page and its files, read once at start-up and served from memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

if TYPE_CHECKING:
    from collections.abc import Mapping

WEB_DIR = Path(__file__).parent
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What the page loads; other files of the folder (licences, notes) are not served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A file as it is sent."""

    content: bytes
    media_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The page and what it loads.

    Attributes
    ----------
    page
        The HTML, UTF-8.
    page_tag
        An entity tag of it.
    digest
        Of all files together. It is a part of their addresses: a file of one digest never changes, and
        modules that import one another by relative paths stay within one release.
    assets
        By path below the static folder.
    """

    page: bytes
    page_tag: str
    digest: str
    assets: Mapping[str, Asset]


def load_site(*, version: str) -> Site:
    """Return the page for a version of the service."""
    assets = _read_assets(WEB_DIR / "static")
    digest = _digest(assets)
    environment = Environment(
        loader=FileSystemLoader(WEB_DIR / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html").render(version=version, static=f"static/{digest}").encode()
    return Site(
        page=page, page_tag=f'"{hashlib.sha256(page).hexdigest()[:16]}"', digest=digest, assets=assets
    )


def _read_assets(folder: Path) -> dict[str, Asset]:
    return {
        path.relative_to(folder).as_posix(): Asset(
            content=path.read_bytes(), media_type=MEDIA_TYPES[path.suffix]
        )
        for path in sorted(folder.rglob("*"))
        if path.suffix in MEDIA_TYPES
    }


def _digest(assets: Mapping[str, Asset]) -> str:
    total = hashlib.sha256()
    for name, asset in assets.items():
        total.update(f"{name} {len(asset.content)}\n".encode())
        total.update(asset.content)
    return total.hexdigest()[:16]
