"""A workload's columns, from values by field name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from twin.domain import Workload
from twin.traffic import ARRIVAL_LAWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

POISSON_CV = 1.0

LAW_CODE = {None: 0} | {law: code for code, law in enumerate(ARRIVAL_LAWS)}
"""Index into `twin.traffic.ARRIVAL_LAWS` of each name that an adapter may give."""


def workload_of(base_model: str, gpu_type: str, columns: Mapping[str, Sequence[Any]]) -> Workload:
    """Return the domain's workload; null and absent become NaN, "not given".

    Parameters
    ----------
    columns
        By field of `service.schemas.workload.AdapterSchema`, each as long as ``id``, their types checked.

    Raises
    ------
    InvalidInputError
        Naming the field.
    """
    count = len(columns["id"])

    def number(name: str) -> NDArray[np.float64]:
        return np.array(columns[name], np.float64) if name in columns else np.full(count, np.nan)

    arrival_cv, rate_rps_std = number("arrival_cv"), number("rate_rps_std")
    laws = map(LAW_CODE.__getitem__, columns.get("arrival_law", ()))
    return Workload(
        base_model=base_model,
        gpu_type=gpu_type,
        adapter_ids=tuple(columns["id"]),
        rank=np.array(columns["rank"], np.int32),
        rate_rps=number("rate_rps"),
        input_tokens_mean=number("input_tokens_mean"),
        output_tokens_mean=number("output_tokens_mean"),
        input_tokens_cv=number("input_tokens_cv"),
        output_tokens_cv=number("output_tokens_cv"),
        arrival_cv=np.where(np.isnan(arrival_cv), POISSON_CV, arrival_cv),
        rate_rps_std=np.where(np.isnan(rate_rps_std), 0.0, rate_rps_std),
        arrival_law=(
            np.fromiter(laws, np.int8, count) if "arrival_law" in columns else np.zeros(count, np.int8)
        ),
    )
