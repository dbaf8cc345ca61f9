"""What this process can plan for: each calibration with its surrogate, exchanged as a pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from models.artifact import load_shipped
from models.errors import ModelsError
from service.errors import InvalidRequestError
from twin.calibration import load_calibration, newest_first, shipped_calibration_ids

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.surrogate import Surrogate
    from twin.domain import Calibration

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server that can be planned for."""

    calibration: Calibration
    surrogate: Surrogate


class Catalog:
    """Targets by calibration id.

    Threads read `targets` while others `adopt`: what is read is one mapping that never changes, so a
    request that finds its target once sees a calibration and the surrogate that was trained on it.
    """

    def __init__(self, *, targets: Mapping[str, Target]) -> None:
        self._targets = dict(targets)

    @property
    def targets(self) -> Mapping[str, Target]:
        """What can be planned for now."""
        return self._targets

    def adopt(self, target: Target) -> None:
        """Put a target in the place of the one with its calibration id."""
        self._targets = self._targets | {target.calibration.calibration_id: target}

    def find(self, *, gpu_type: str, base_model: str) -> Target:
        """Return the target of a GPU type and base model, the newest engine where there are several.

        Raises
        ------
        InvalidRequestError
            Naming ``base_model`` or ``gpu_type`` and what is known.
        """
        targets = self._targets
        known_models = sorted({target.calibration.base_model for target in targets.values()})
        if base_model not in known_models:
            raise InvalidRequestError(
                f"is not calibrated; known: {_listed(known_models)}", field="base_model"
            )
        prefix = f"{gpu_type}/{base_model}/"
        found = newest_first(name for name in targets if name.startswith(prefix))
        if not found:
            known_types = sorted(
                target.calibration.gpu_type
                for target in targets.values()
                if target.calibration.base_model == base_model
            )
            raise InvalidRequestError(
                f"is not calibrated for {base_model}; known: {_listed(known_types)}", field="gpu_type"
            )
        return targets[found[0]]


def load_catalog() -> Catalog:
    """Return every shipped calibration that has a sound surrogate; one that has none is logged."""
    targets: dict[str, Target] = {}
    for calibration_id in shipped_calibration_ids():
        try:
            surrogate = load_shipped(calibration_id)
        except ModelsError as error:
            log.error("surrogate_refused", calibration_id=calibration_id, reason=str(error))  # noqa: TRY400
            continue
        targets[calibration_id] = Target(calibration=load_calibration(calibration_id), surrogate=surrogate)
    return Catalog(targets=targets)


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
