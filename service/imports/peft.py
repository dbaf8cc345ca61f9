"""Adapters from a folder as peft writes them: ids from folder names, ranks from `adapter_config.json`."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.errors import ImportSourceError
from service.imports.observations import Observations, Seen, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = "adapter_config.json"
MAX_DEPTH = 6
"""Folders below the given one that are looked into: a Hugging Face cache needs three."""

CACHE_PREFIX = "models--"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftFolder:
    """A folder with an adapter in each of its folders, at any depth; or one adapter; or a Hugging Face cache.

    The id of an adapter is its folder's path below the given one, ``owner/name`` for one in a cache. Folders
    within an adapter, such as checkpoints, are not adapters of their own.
    """

    path: Path

    def read(self) -> Observations:
        """Return the ranks, and the base model that most adapters name; raises as `Source.read`."""
        found, dropped = self._configs()
        base_models = Counter(
            config["base_model_name_or_path"]
            for config in found.values()
            if isinstance(config.get("base_model_name_or_path"), str)
        )
        base_model = base_models.most_common(1)[0][0] if base_models else None
        others = [
            name
            for name, config in found.items()
            if config.get("base_model_name_or_path") not in {base_model, None}
        ]
        if others:
            dropped[f"adapters of another base model than {base_model} ({listed(others)})"] = len(others)
        adapters = {name: Seen(rank=rank_of(config)) for name, config in found.items() if name not in others}
        if not adapters:
            told = "; ".join(f"{count} {reason}" for reason, count in dropped.items())
            raise ImportSourceError(f"{self.path}: holds no LoRA adapter: {told or 'no ' + CONFIG}")
        return Observations(source=self.path.name, adapters=adapters, base_model=base_model, dropped=dropped)

    def paths(self) -> dict[str, Path]:
        """Return the folder of each adapter by id, sound or not."""
        return {self._id_of(folder): folder for folder in self._folders(Counter())}

    def _configs(self) -> tuple[dict[str, dict[str, Any]], Counter[str]]:
        """Return the sound configurations by adapter id, and what was left out."""
        configs: dict[str, dict[str, Any]] = {}
        dropped: Counter[str] = Counter()
        for folder in self._folders(dropped):
            config = _read(folder / CONFIG)
            reason = _unfit(config)
            name = self._id_of(folder)
            if reason is not None:
                dropped[f"adapter {name}: {reason}"] += 1
            elif name in configs:
                dropped[f"adapter {name}: a second snapshot of it"] += 1
            else:
                configs[name] = config
        return configs, dropped

    def _folders(self, dropped: Counter[str]) -> Iterator[Path]:
        """Yield the folders that hold an adapter, in order of their names; links are followed once."""
        seen: set[str] = set()
        for parent, folders, files in os.walk(self.path, followlinks=True):
            real = os.path.realpath(parent)
            if real in seen or len(Path(parent).relative_to(self.path).parts) > MAX_DEPTH:
                dropped["folders met twice or deeper than we look"] += 1
                folders.clear()
                continue
            seen.add(real)
            folders[:] = _snapshot(parent, sorted(name for name in folders if not name.startswith(".")))
            if CONFIG in files:
                inner = sum((Path(parent) / name / CONFIG).is_file() for name in folders)
                if inner:
                    dropped["checkpoints within an adapter's folder"] += inner
                folders.clear()
                yield Path(parent)

    def _id_of(self, folder: Path) -> str:
        parts = folder.relative_to(self.path).parts
        cached = [part for part in parts if part.startswith(CACHE_PREFIX)]
        if cached:
            return cached[0].removeprefix(CACHE_PREFIX).replace("--", "/")
        return "/".join(parts) or folder.resolve().name


def rank_of(config: dict[str, Any]) -> int:
    """Return the rank that a slot must hold: the largest of `r` and of `rank_pattern`."""
    pattern = config.get("rank_pattern") or {}
    return max(config["r"], *pattern.values()) if pattern else config["r"]


def _snapshot(parent: str, folders: list[str]) -> list[str]:
    """Return the folders to look into: of a cache's snapshots only the one that `refs/main` names."""
    if Path(parent).name != "snapshots" or len(folders) < 2:  # noqa: PLR2004 (nothing to choose)
        return folders
    try:
        main = (Path(parent).parent / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return folders
    return [main] if main in folders else folders


def _read(path: Path) -> dict[str, Any]:
    """Return a configuration; empty where it is no JSON object."""
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _unfit(config: dict[str, Any]) -> str | None:
    """Return why vLLM would not serve an adapter, None where it may."""
    if not config:
        return f"its {CONFIG} is no JSON object"
    if str(config.get("peft_type", "LORA")).upper() != "LORA":
        return f"its peft_type is {config['peft_type']}, not LORA"
    pattern = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else [None])]
    if not all(isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1 for rank in ranks):
        return "its r or rank_pattern holds something else than whole numbers >= 1"
    if config.get("use_dora"):
        return "vLLM does not serve DoRA"
    if config.get("modules_to_save"):
        return "vLLM does not serve modules_to_save"
    return None
