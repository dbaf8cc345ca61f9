"""The site beside `docs/`: documents of elsewhere in the repository are pages too, and links reach them."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ELSEWHERE = ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "twin/README.md", "models/README.md")
"""Pages of the site under the paths that they have in the repository."""

_LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)]*)?(\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the decisions, newest first, and put pages that the navigation does not name at its end."""
    for section in config.nav:
        for entry in next(iter(section.values())):
            if isinstance(entry, dict) and "Decisions" in entry:
                entry["Decisions"] = [f"adr/{name}" for name in reversed(_names("adr"))]
    named = str(config.nav)
    rest = [name for name in _names(".") if f"'{name}'" not in named]
    if rest:
        config.nav.append({"More": rest})
    return config


def _names(folder: str) -> list[str]:
    return sorted(path.name for path in (ROOT / "docs" / folder).glob("*.md"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents of elsewhere."""
    for name in ELSEWHERE:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn links between repository paths into links between pages."""
    source = page.file.src_uri
    at = source if source in ELSEWHERE else f"docs/{source}"

    def link(found: re.Match[str]) -> str:
        opening, target, anchor, closing = found.groups()
        if "://" in target or target.startswith(("/", "mailto:")):
            return found.group(0)
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(at), target))
        inside = wanted.removeprefix("docs/") if wanted.startswith("docs/") else wanted
        if files.get_file_from_path(inside) is None:
            return found.group(0)
        relative = posixpath.relpath(inside, posixpath.dirname(source) or ".")
        return f"{opening}{relative}{anchor or ''}{closing}"

    return _LINK.sub(link, markdown)
