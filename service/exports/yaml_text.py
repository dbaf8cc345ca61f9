"""YAML that says the same to every reader: what any version of YAML could take for a number is quoted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*[A-Za-z0-9]")
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "nan", "inf"})


class _Dumper(yaml.SafeDumper):
    """Quotes every string but plain words; writes no anchors, no folded lines."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 (PyYAML's signature)
        """Return that nothing is written as a reference."""
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    is_plain = _PLAIN.fullmatch(value) and value.casefold() not in _WORDS
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if is_plain else '"')


_Dumper.add_representer(str, _text)


def yaml_documents(documents: Iterable[Any], heading: str) -> str:
    """Return documents as one YAML text under a comment; keys keep their order."""
    parts = [
        yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1_000_000, allow_unicode=True)
        for document in documents
    ]
    return f"# {heading}\n" + "---\n".join(parts)
