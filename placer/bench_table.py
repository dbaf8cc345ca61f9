"""The records of `loadmaster bench place`, summed: the table of docs/placement.md."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from placer.errors import InvalidProblemError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Record = Mapping[str, Any]

MANY_GPUS = 100
"""Above so many GPUs a gap of 1 % is as good as one of 1."""

NEEDED = (
    *("family", "seed", "num_adapters", "num_gpus", "lower_bound", "gap", "placement_ms", "search_ms"),
    *("first_plan", "starved_gpus_unverified", "num_gpus_verified", "starved_gpus_verified", "baselines"),
)
HEADS = ("family", "adapters", "GPUs", "bound", "gap 0 / 1 / more", "starved", "verified: GPUs (starved)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Instances of one family and size, summed.

    Attributes
    ----------
    family, num_adapters, num_instances
        Which, and how many.
    num_gpus, lower_bound
        Sums over the instances with every adapter placed.
    gaps
        Instances with a gap of 0, of 1, of more.
    num_infeasible
        Instances in which some adapter has no GPU.
    starved, verified, verified_starved
        GPUs that starve unverified; GPUs once verified; those of them that starve.
    baselines
        For each rule GPUs, those that starve, and instances without a plan.
    """

    family: str
    num_adapters: int
    num_instances: int
    num_gpus: int
    lower_bound: int
    gaps: tuple[int, int, int]
    num_infeasible: int
    starved: int
    verified: int
    verified_starved: int
    baselines: Mapping[str, tuple[int, int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beaten:
    """An instance in which a rule that starves nothing needs fewer GPUs than we do."""

    family: str
    num_adapters: int
    seed: int
    baseline: str
    num_gpus: int
    ours: int


def check_records(records: Iterable[Any]) -> None:
    """Refuse what is no record of ``bench place``, and what would count an instance twice.

    Raises
    ------
    InvalidProblemError
        Naming ``instances[i]``.
    """
    known: dict[tuple[Any, ...], int] = {}
    for number, record in enumerate(records):
        missing = [name for name in NEEDED if name not in record] if isinstance(record, dict) else NEEDED
        if missing:
            raise InvalidProblemError(f"instances[{number}]", f"must have {', '.join(missing)}")
        first = known.setdefault((record["family"], record["num_adapters"], record["seed"]), number)
        if first != number:
            raise InvalidProblemError(f"instances[{number}]", f"must not be instances[{first}] again")


def rows(records: Sequence[Record]) -> tuple[Row, ...]:
    """Return a row for each family and size, in the order they first come."""
    groups: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for record in records:
        groups[record["family"], record["num_adapters"]].append(record)
    return tuple(_row(family, size, group) for (family, size), group in groups.items())


def _row(family: str, num_adapters: int, group: Sequence[Record]) -> Row:
    feasible = [record for record in group if record["num_gpus"] is not None]
    gaps = Counter(min(record["gap"], 2) for record in feasible)
    return Row(
        family=family,
        num_adapters=num_adapters,
        num_instances=len(group),
        num_gpus=sum(record["num_gpus"] for record in feasible),
        lower_bound=sum(record["lower_bound"] for record in feasible),
        gaps=(gaps[0], gaps[1], gaps[2]),
        num_infeasible=len(group) - len(feasible),
        starved=sum(record["starved_gpus_unverified"] for record in group),
        verified=sum(record["num_gpus_verified"] for record in group),
        verified_starved=sum(record["starved_gpus_verified"] for record in group),
        baselines={name: _of_baseline(name, group) for name in group[0]["baselines"]},
    )


def _of_baseline(name: str, group: Sequence[Record]) -> tuple[int, int, int]:
    plans = [record["baselines"][name] for record in group]
    found = [plan for plan in plans if plan["num_gpus"] is not None]
    num_gpus = sum(plan["num_gpus"] for plan in found)
    return num_gpus, sum(plan["starved_gpus"] for plan in found), len(plans) - len(found)


def beaten(records: Sequence[Record]) -> tuple[Beaten, ...]:
    """Return the instances in which a rule that starves nothing needs fewer GPUs, with the best rule."""
    found = []
    for record in records:
        ours = record["num_gpus"]
        if ours is None:
            continue
        better = [
            (plan["num_gpus"], name)
            for name, plan in record["baselines"].items()
            if plan["num_gpus"] is not None and plan["starved_gpus"] == 0 and plan["num_gpus"] < ours
        ]
        if better:
            num_gpus, name = min(better)
            found.append(
                Beaten(
                    family=record["family"],
                    num_adapters=record["num_adapters"],
                    seed=record["seed"],
                    baseline=name,
                    num_gpus=num_gpus,
                    ours=ours,
                )
            )
    return tuple(found)


def totals(records: Sequence[Record]) -> dict[str, Any]:
    """Return the figures over all instances that the targets speak of."""
    summed = rows(records)
    num_gpus = sum(row.num_gpus for row in summed)
    gaps = [record for record in records if record["gap"] is not None]
    return {
        "num_instances": len(records),
        "num_infeasible": sum(row.num_infeasible for row in summed),
        "num_gpus": num_gpus,
        "gap_0": sum(row.gaps[0] for row in summed),
        "gap_1": sum(row.gaps[1] for row in summed),
        "gap_more": sum(row.gaps[2] for row in summed),
        "gap_beyond_target": sum(record["gap"] > _largest_gap(record["num_gpus"]) for record in gaps),
        "starved_unverified": sum(row.starved for row in summed),
        "num_gpus_verified": sum(row.verified for row in summed),
        "starved_verified": sum(row.verified_starved for row in summed),
        "num_beaten": len(beaten(records)),
        "first_plans": {
            name: sum(record["first_plan"][name] for record in records)
            for name in ("num_gpus", "starved_gpus", "lower_bound")
        },
        "placement_ms": _medians(records, "placement_ms"),
        "search_ms": _medians(records, "search_ms"),
    }


def _largest_gap(num_gpus: int) -> int:
    return 1 if num_gpus <= MANY_GPUS else num_gpus // MANY_GPUS


def _medians(records: Sequence[Record], name: str) -> dict[int, float]:
    sizes = sorted({record["num_adapters"] for record in records})
    return {
        size: median(record[name] for record in records if record["num_adapters"] == size) for size in sizes
    }


def markdown(records: Sequence[Record]) -> str:
    """Return the table and what it comes to, as Markdown."""
    summed = rows(records)
    names = list(dict.fromkeys(name for row in summed for name in row.baselines))
    heads = [*HEADS, *names]
    lines = [_line(heads), _line(["---"] * len(heads))]
    lines += [_line([*_cells(row), *(_baseline_cell(row, name) for name in names)]) for row in summed]
    return "\n".join([*lines, "", _told(records), _told_times(records), "", *_told_beaten(records), ""])


def _cells(row: Row) -> list[str]:
    num_gpus = str(row.num_gpus) + (f", infeasible {row.num_infeasible}" if row.num_infeasible else "")
    gaps = " / ".join(map(str, row.gaps))
    verified = f"{row.verified} ({row.verified_starved})"
    return [
        row.family,
        str(row.num_adapters),
        num_gpus,
        str(row.lower_bound),
        gaps,
        str(row.starved),
        verified,
    ]


def _baseline_cell(row: Row, name: str) -> str:
    if name not in row.baselines:
        return "-"
    num_gpus, starved, no_plan = row.baselines[name]
    return f"{num_gpus} ({starved})" + (f", no plan {no_plan}" if no_plan else "")


def _told(records: Sequence[Record]) -> str:
    sums = totals(records)
    share = 100 * sums["starved_unverified"] / max(sums["num_gpus"], 1)
    return (
        f"{sums['num_instances']} instances, {sums['num_gpus']} GPUs: {sums['starved_unverified']} of them "
        f"starve unverified ({share:.1f} %), {sums['starved_verified']} of {sums['num_gpus_verified']} once "
        f"verified. The gap to the lower bound is 0 on {sums['gap_0']} instances, 1 on {sums['gap_1']}, 2 or "
        f"more on {sums['gap_more']}; a rule that starves nothing needs fewer GPUs on {sums['num_beaten']}. "
        f"{_told_first(sums['first_plans'])}"
    )


def _told_first(sums: Mapping[str, int]) -> str:
    return (
        f"First plans have {sums['num_gpus']} GPUs, of which {sums['starved_gpus']} starve, and bounds of "
        f"{sums['lower_bound']}."
    )


def _told_times(records: Sequence[Record]) -> str:
    """Return the median times of plans by the number of adapters."""
    sums = totals(records)
    times = [
        f"{size:,} adapters {sums['placement_ms'][size]:.3g} and {sums['search_ms'][size]:.3g} ms"
        for size in sums["placement_ms"]
    ]
    return f"First plan and search, medians: {', '.join(times)}."


def _told_beaten(records: Sequence[Record]) -> list[str]:
    groups: dict[tuple[str, int, str], list[Beaten]] = defaultdict(list)
    for case in beaten(records):
        groups[case.family, case.num_adapters, case.baseline].append(case)
    return [
        f"- `{family}` {size}: `{name}` on {len(cases)} instances, "
        f"{sum(case.num_gpus for case in cases)} GPUs against {sum(case.ours for case in cases)}."
        for (family, size, name), cases in groups.items()
    ]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
