"""Small traces as others publish them, and where the real ones lie."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

SHARED_TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces"

needs_traces = pytest.mark.skipif(
    not (SHARED_TRACES / "servegen_clients.csv.gz").is_file(),
    reason="the published traces (../shared/data/traces) are not beside this clone",
)


def write_text(path: Path, text: str) -> Path:
    """Write a text, gzip where the name ends so."""
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def table(columns: str, *rows: tuple[object, ...]) -> str:
    """Return a CSV's text."""
    return "\n".join([columns, *(",".join(map(str, row)) for row in rows)]) + "\n"


AZURE = table(
    "TIMESTAMP,ContextTokens,GeneratedTokens",
    ("2023-11-16 18:15:46.6805900", 374, 44),
    ("2023-11-16 18:15:50.9951690", 396, 109),
    ("2023-11-16 18:15:46.9000000", 879, 55),
)

SECONDS = table("t_s,input_tokens,output_tokens", (0.0, 6758, 500), (3.0, 7322, 490), (3.0, 7236, 794))

MOONCAKE = "\n".join(
    json.dumps({"timestamp": t_ms, "input_length": prompt, "output_length": output, "hash_ids": [0]})
    for t_ms, prompt, output in ((27482, 6758, 500), (30535, 7322, 490))
)


def servegen_files(folder: Path) -> Path:
    """Write two clients that can be adapters, one without lengths, one that never sends."""
    import pyarrow as pa  # noqa: PLC0415 (heavy)
    import pyarrow.parquet as pq  # noqa: PLC0415

    levels = [f"q{level:02d}" for level in range(2, 99, 4)]
    rows = []
    for client, shortest in ((0, 100), (1, 10), (3, 5)):
        for field, factor in (("input_tokens", 1), ("output_tokens", 2)):
            values = [shortest * factor + step for step in range(25)]
            rows.append(("language", "m", client, field, *values))
    name = "servegen_client_length_quantiles.csv.gz"
    write_text(folder / name, table(",".join(["category,model,client,field", *levels]), *rows))
    clients = [
        ("language", "m", 0, 4, 0.5, 130.0, 150.0, 230.0, 260.0),
        ("language", "m", 1, 4, 2.0, 30.0, 60.0, 40.0, 80.0),
        ("language", "m", 2, 4, 9.0, "", "", "", ""),
        ("language", "m", 3, 4, 0.0, 9.0, 30.0, 12.0, 40.0),
    ]
    columns = "category,model,client,windows,mean_rate,input_tokens_mean,input_tokens_p99,output_tokens_mean"
    path = write_text(folder / "servegen_clients.csv.gz", table(f"{columns},output_tokens_p99", *clients))
    windows = pa.table(
        {
            "category": ["language"] * 4,
            "model": ["m"] * 4,
            "client": [0, 0, 1, 2],
            "t": [0, 1200, 600, 0],
            "rate": [1.5, 0.5, 8.0, 36.0],
            "cv": [1.0, 2.5, 300.0, 1.0],
            "pat": ["Gamma", "Weibull", "Gamma", "Gamma"],
        }
    )
    pq.write_table(windows, folder / "servegen_client_rates_10min.parquet")
    return path


def num_rows(path: Path) -> int:
    """Count the requests of a published table, by the standard library alone."""
    with gzip.open(path, "rt", newline="", encoding="utf-8") as stream:
        return sum(1 for _ in csv.reader(stream)) - 1
