"""The forms of an export by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.exports.commands import shell_script
from service.exports.compose import compose_file
from service.exports.kubernetes import manifests
from service.exports.operators import aibrix_resources, production_stack_resources
from service.exports.routing import envoy_bootstrap, litellm_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.exports.fleet import Exported, Fleet

FORMATS: dict[str, Callable[[Fleet], Exported]] = {
    "vllm": shell_script,
    "compose": compose_file,
    "kubernetes": manifests,
    "aibrix": aibrix_resources,
    "production-stack": production_stack_resources,
    "litellm": litellm_config,
    "envoy": envoy_bootstrap,
}
