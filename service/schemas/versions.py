"""What crosses the border about calibrations, surrogates and what they were made of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.border import Border
from twin.calibration import calibration_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.services.versions import ListedVersion

Source = Literal["shipped", "published"]


class DatasetLineageSchema(BaseModel):
    """The twin runs that taught a surrogate."""

    sha256: str
    rows: int
    seed: int
    twin_version: str


class LineageSchema(BaseModel):
    """Measurements -> calibration -> data set -> surrogate."""

    measurement_set: str | None = Field(description="Null where the measurements are not kept here.")
    measurements: str = Field(description="What the calibration says it was fitted to.")
    calibration_sha256: str
    dataset: DatasetLineageSchema
    surrogate_version: str
    job_id: str | None = Field(description="The recalibration that made it; null for what is shipped.")
    live_servers: str | None = Field(
        default=None,
        description="Digest of the live servers that taught it beside the design; null for none.",
    )


class SurrogateSchema(BaseModel):
    """One version: a surrogate with the calibration that it was trained on."""

    surrogate_version: str
    calibration_id: str
    calibration_version: str = Field(description="Digest of the calibration's content.")
    active: bool = Field(description="This process plans with it.")
    source: Source
    created_at: datetime | None
    active_since: datetime | None = Field(
        description="Null where it is not in force, or shipped and never replaced."
    )
    refused: str | None = Field(description="Why this process does not plan with it though it is in force.")
    metrics: dict[str, dict[str, float | None]] = Field(description="Figures on held-out twin runs.")
    gate: dict[str, Any] = Field(description="What its validation found; empty for what is shipped.")
    lineage: LineageSchema

    @classmethod
    def from_listed(cls, listed: ListedVersion) -> Self:
        """Return the answer for a version."""
        version, manifest = listed.version, listed.version.manifest
        lineage = version.lineage
        return cls(
            surrogate_version=version.name,
            calibration_id=manifest.calibration_id,
            calibration_version=calibration_digest(version.calibration),
            active=listed.is_active,
            source="shipped" if version.is_shipped else "published",
            created_at=None if lineage.created_at is None else datetime.fromisoformat(lineage.created_at),
            active_since=None if listed.since_s is None else datetime.fromtimestamp(listed.since_s, UTC),
            refused=listed.refused,
            metrics=manifest.metrics,
            gate=lineage.gate,
            lineage=LineageSchema(
                measurement_set=lineage.measurement_set,
                measurements=version.calibration.provenance.get("data", ""),
                calibration_sha256=manifest.calibration_sha256,
                dataset=DatasetLineageSchema(
                    sha256=manifest.dataset_sha256,
                    rows=manifest.dataset_rows,
                    seed=manifest.dataset_seed,
                    twin_version=manifest.twin_version,
                ),
                surrogate_version=version.name,
                job_id=lineage.job_id,
                live_servers=lineage.live_servers,
            ),
        )


class SurrogateListSchema(BaseModel):
    """Every version, shipped ones first, then the oldest first."""

    surrogates: list[SurrogateSchema]


class CalibrationSchema(BaseModel):
    """A calibration that surrogates were trained on."""

    calibration_id: str
    calibration_version: str
    active: bool
    source: Source
    created_at: datetime | None
    metrics: dict[str, float] = Field(description="Errors of its four estimators on their own data.")
    provenance: dict[str, str]
    measurement_set: str | None
    surrogate_versions: list[str]


class CalibrationListSchema(BaseModel):
    """Every calibration, shipped ones first, then the oldest first."""

    calibrations: list[CalibrationSchema]

    @classmethod
    def from_listed(cls, listed: Sequence[ListedVersion]) -> Self:
        """Return the calibrations of some versions; one that taught several is told once."""
        rows: dict[tuple[str, str], CalibrationSchema] = {}
        for one in listed:
            told = SurrogateSchema.from_listed(one)
            key = (told.calibration_id, told.calibration_version)
            calibration = one.version.calibration
            row = rows.setdefault(
                key,
                CalibrationSchema(
                    calibration_id=told.calibration_id,
                    calibration_version=told.calibration_version,
                    active=False,
                    source=told.source,
                    created_at=told.created_at,
                    metrics=dict(calibration.errors),
                    provenance=dict(calibration.provenance),
                    measurement_set=told.lineage.measurement_set,
                    surrogate_versions=[],
                ),
            )
            row.active = row.active or told.active
            row.surrogate_versions.append(told.surrogate_version)
        return cls(calibrations=list(rows.values()))


class RollBackRequest(Border):
    """Which calibration's surrogate goes back to the one before."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"calibration_id": "h100-64gb/llama-3.1-8b-instruct/vllm-0.8.5"}]}
    )

    calibration_id: str = Field(min_length=1, max_length=256)
