"""Compile the kernels before the first request or job waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from placer.delta import re_place
from placer.packing import compile_search
from service.structure import check_structure
from twin.calibration import load_calibration, shipped_calibration_ids
from twin.domain import Adapter, ServerConfig, Workload
from twin.simulate import simulate

if TYPE_CHECKING:
    from service.services.catalog import Catalog
    from service.services.placement import PlacementService


def warm_twin() -> None:
    """Run the twin once on a small workload of Poisson and of bursty requests."""
    for calibration_id in shipped_calibration_ids()[:1]:
        adapters = [
            Adapter(
                adapter_id=f"cv{arrival_cv}",
                rank=8,
                rate_rps=1.0,
                input_tokens_mean=200,
                output_tokens_mean=200,
                arrival_cv=arrival_cv,
            )
            for arrival_cv in (1.0, 2.0)
        ]
        simulate(
            Workload.from_adapters(adapters),
            ServerConfig(max_loras=8, max_lora_rank=8),
            load_calibration(calibration_id),
            horizon_s=10.0,
        )


def warm_placement(catalog: Catalog, placements: PlacementService) -> None:
    """Make one small plan, verified, search for a better one and re-place it, for each target.

    Looks once at a text's structure too.
    """
    check_structure(b"{}", max_values=2)
    for target in catalog.targets.values():
        adapters = [
            {
                "id": f"a{number}",
                "rank": 8,
                "rate_rps": 0.1,
                "input_tokens_mean": 200,
                "output_tokens_mean": 200,
            }
            for number in range(3)
        ]
        document = {
            "base_model": target.calibration.base_model,
            "gpu_type": target.calibration.gpu_type,
            "adapters": adapters,
            "options": {"verify": True},
        }
        problem = placements.plan(orjson.dumps(document)).problem
        compile_search(problem)
        re_place(problem, ())
