"""Surrogates from the command line: data sets of twin runs, training, and the test on measured runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

# Everything else is imported by the command that needs it: `--help` and short commands stay fast.

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from models.artifact import Manifest
    from models.evaluation import Subject

dataset_app = typer.Typer(
    name="dataset", help="Data sets of twin runs.", no_args_is_help=True, add_completion=False
)

DEFAULT_ROWS = 16_000
DEFAULT_ACTIVE_SHARE = 0.25

CalibrationId = Annotated[
    str, typer.Option("--calibration", help="Id of a shipped calibration, or a file.", show_default=False)
]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes; one a core if not given.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataset_app.command()
def generate(  # noqa: PLR0913, PLR0917 (a command's options)
    calibration: CalibrationId,
    out: Annotated[str, typer.Option(help="Parquet file to write, or an fsspec URL.", show_default=False)],
    rows: Annotated[int, typer.Option(min=1, help="Servers to simulate.")] = DEFAULT_ROWS,
    seed: Seed = 0,
    max_adapters: Annotated[int, typer.Option(min=1, help="Adapters on a server at most.")] = 2000,
    active_share: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of rows chosen where earlier rows leave doubt.")
    ] = DEFAULT_ACTIVE_SHARE,
    workers: Workers = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Simulate servers of a random design and store what the twin said of them.

    Finished parts are kept until OUT is written, beside it or, for a URL, below LOADMASTER_DATA_DIR: a call
    that was killed goes on where it was.
    """
    import shutil  # noqa: PLC0415
    import time  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    from models.dataset import Design  # noqa: PLC0415
    from models.dataset_files import write_parquet  # noqa: PLC0415
    from models.generation import generate as simulate_design  # noqa: PLC0415
    from models.remote import shown  # noqa: PLC0415
    from twin.calibration import load_calibration  # noqa: PLC0415

    known = load_calibration(calibration)
    design = Design(num_rows=rows, seed=seed, max_adapters=max_adapters, active_share=active_share)
    parts = _parts_of(out)
    start = time.perf_counter()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("simulating", total=rows)
        made = simulate_design(
            known,
            design,
            num_workers=_workers(workers),
            parts=parts,
            on_rows=lambda count: progress.advance(bar, count),
        )
    write_parquet(made, out)
    shutil.rmtree(parts)
    report = {
        "dataset": shown(out),
        "rows": made.num_rows,
        "starved_rows": int(made["starved"].sum()),
        "calibration_id": made.origin.calibration_id,
        "seed": seed,
        "sha256": made.sha256,
        "wall_s": round(time.perf_counter() - start, 1),
    }
    _print(report, json=json)


def _parts_of(out: str) -> Path:
    """Return where the finished parts of a data set wait; a URL that cannot be written to is refused here."""
    import hashlib  # noqa: PLC0415

    from models.remote import is_url, require_protocol  # noqa: PLC0415
    from service.settings import Settings  # noqa: PLC0415

    if not is_url(out):
        path = Path(out)
        return path.with_name(path.name + ".parts")
    require_protocol(out)
    name = hashlib.sha256(out.encode()).hexdigest()[:16]
    return Settings().data_dir / "datasets" / ".parts" / f"generate-{name}"


def train(  # noqa: PLR0913, PLR0917 (a command's options)
    dataset: Annotated[
        str, typer.Option(help="Data set to learn from: a file or an fsspec URL.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Directory of the surrogate.", show_default=False)],
    calibration: Annotated[
        str | None, typer.Option(help="Id or file; that which the data set names if not given.")
    ] = None,
    seed: Seed = 0,
    leaves: Annotated[int, typer.Option(min=2, help="Leaves of each tree at most.")] = 512,
    report_file: Annotated[
        Path | None,
        typer.Option("--report", help="Markdown file for rules, reliability and errors by size."),
    ] = None,
    workers: Workers = None,
    check: Annotated[  # noqa: FBT002
        bool,
        typer.Option("--check", help="Publish nothing; fail unless OUT holds just what would be published."),
    ] = False,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Teach a surrogate from a data set, publish it, and print its errors on held-out scenarios."""
    from models.dataset_files import read_parquet  # noqa: PLC0415
    from models.pipeline import publish, require_published, require_taught_by  # noqa: PLC0415
    from models.pipeline import train as train_surrogate  # noqa: PLC0415
    from twin.calibration import load_calibration  # noqa: PLC0415

    runs = read_parquet(dataset)
    if check:
        require_taught_by(runs, out)
    trained = train_surrogate(
        runs,
        load_calibration(calibration or runs.origin.calibration_id),
        seed=seed,
        max_leaves=leaves,
        num_workers=_workers(workers),
    )
    manifest = require_published(trained, runs, out) if check else publish(trained, runs, out)
    if report_file is not None:
        report_file.write_text(trained.report, encoding="utf-8")
    report = {
        "surrogate": str(out),
        "surrogate_version": manifest.surrogate_version,
        "calibration_id": manifest.calibration_id,
        "leaves": {
            name: getattr(trained.surrogate, name).num_leaves
            for name in ("throughput", "starvation", "itl", "ttft")
        },
        "held_out": trained.metrics,
    }
    if json:
        _print(report, json=True)
        return
    _print({name: report[name] for name in ("surrogate", "surrogate_version", "calibration_id", "leaves")})
    _print_table("On held-out scenarios", trained.metrics)


def evaluate(
    runs: Annotated[Path | None, typer.Option(help="Measured runs, as CSV.", show_default=False)] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="Twin runs of a seed that taught no surrogate, from `dataset generate`: a file or an fsspec "
            "URL; may be repeated.",
            show_default=False,
        ),
    ] = None,
    surrogate: Annotated[
        list[Path] | None,
        typer.Option(
            help="Directory of a surrogate, published or of a shipped calibration; may be repeated.",
            show_default="shipped ones",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Judge what is in force on this data directory.", show_default=False),
    ] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Compare surrogates with measured runs, predicted from configurations alone, or with fresh twin runs."""
    if runs is None and not dataset:
        raise typer.BadParameter("give --runs, --dataset or both")
    directories = surrogate if data_dir is None else _directories_in_force(data_dir)
    report: dict[str, Any] = {} if runs is None else _on_measured_runs(runs, directories)
    if dataset:
        report["fresh"] = _on_fresh_runs(dataset, directories)
    if json:
        _print(report, json=True)
        return
    for model, blocks in report.get("by_model", {}).items():
        _print_table(model, {name: block for name, block in blocks.items() if block is not None})
    for path, blocks in report.get("fresh", {}).items():
        told = {name: blocks[name] for name in ("tree", "teacher", "physics") if blocks[name] is not None}
        _print_table(f"{path}: {blocks['calibration_id']}", told)
        _print_reliability(blocks["reliability"])


def _on_measured_runs(runs: Path, directories: list[Path] | None) -> dict[str, Any]:
    from models.evaluation import evaluate_runs  # noqa: PLC0415
    from twin.measured import read_runs  # noqa: PLC0415

    return evaluate_runs(
        read_runs(runs), {name: subject for name, (subject, _) in subjects_of(directories).items()}
    )


def _on_fresh_runs(paths: list[str], directories: list[Path] | None) -> dict[str, Any]:
    """Return figures by file, each judged by the surrogate of its calibration."""
    from models.dataset_files import read_parquet  # noqa: PLC0415
    from models.errors import DatasetError  # noqa: PLC0415
    from models.evaluation import evaluate_dataset  # noqa: PLC0415
    from models.remote import shown  # noqa: PLC0415

    subjects = {
        subject.calibration.calibration_id: (subject, manifest)
        for subject, manifest in subjects_of(directories).values()
    }
    report: dict[str, Any] = {}
    for path in paths:
        fresh = read_parquet(path)
        calibration_id = fresh.origin.calibration_id
        if calibration_id not in subjects:
            raise DatasetError(f"{shown(path)}: calibration_id: no surrogate of {calibration_id} is judged")
        report[shown(path)] = {
            "calibration_id": calibration_id,
            **evaluate_dataset(fresh, *subjects[calibration_id]),
        }
    return report


def subjects_of(directories: list[Path] | None) -> Mapping[str, tuple[Subject, Manifest]]:
    """Return the surrogates to judge, and what each was trained on, by base model."""
    from models.artifact import SHIPPED, load, load_teacher, read_manifest, shipped_surrogate_ids  # noqa: PLC0415
    from models.evaluation import Subject  # noqa: PLC0415
    from service.storage.versions import CALIBRATION  # noqa: PLC0415
    from twin.calibration import load_calibration  # noqa: PLC0415

    found = directories or [SHIPPED / name for name in shipped_surrogate_ids()]
    subjects = {}
    for directory in found:
        loaded = load(directory)
        own = directory / CALIBRATION  # beside a published one
        calibration = load_calibration(str(own) if own.is_file() else loaded.calibration_id)
        subject = Subject(calibration=calibration, surrogate=loaded, teacher=load_teacher(directory))
        subjects[calibration.base_model] = (subject, read_manifest(directory))
    return subjects


def _directories_in_force(data_dir: Path) -> list[Path]:
    """Return the directories of the versions that a data directory's service plans with."""
    from service.factory import local_catalog  # noqa: PLC0415
    from service.settings import Settings  # noqa: PLC0415
    from service.storage.connection import connect  # noqa: PLC0415
    from service.storage.files import FileExchange  # noqa: PLC0415
    from service.storage.versions import VersionStore  # noqa: PLC0415

    settings = Settings(data_dir=data_dir)
    versions = VersionStore(FileExchange(data_dir, connect(settings)))
    targets = local_catalog(settings).targets
    return [versions.directory(name, target.surrogate.version) for name, target in targets.items()]


def _workers(asked: int | None) -> int:
    return asked or os.cpu_count() or 1


def _print(report: Mapping[str, Any], *, json: bool = False) -> None:
    import orjson  # noqa: PLC0415

    if json:
        sys.stdout.buffer.write(orjson.dumps(report) + b"\n")
        return
    for name, value in report.items():
        typer.echo(f"{name}: {value}")


def _print_reliability(rows: Sequence[Mapping[str, float]]) -> None:
    """Print what was said of starvation, and what happened, one line a class of probability."""
    columns = {
        f"{row['low']:.2f} to {row['high']:.2f}": {
            name: row[name] for name in ("rows", "predicted", "starved")
        }
        for row in rows
    }
    _print_table("Starvation, said and seen", columns)


def _print_table(title: str, columns: Mapping[str, Mapping[str, Any]]) -> None:
    """Print figures by name, one column a model."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table("figure", *columns, title=title, title_justify="left")
    names = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    for name in names:
        values = [figures.get(name) for figures in columns.values()]
        table.add_row(name, *("-" if value is None else f"{value:.4g}" for value in values))
    Console().print(table)
