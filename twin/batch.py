"""Many simulations at once, over processes: same results, in the same order, as one by one."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from twin.client import STEADY_SERVICE, ClientConditions
from twin.errors import InvalidInputError, TwinError
from twin.simulate import simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from twin.domain import Calibration, ServerConfig, SimulationReport, Workload

Task = TypeVar("Task")

SCENARIOS_A_TASK = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scenario:
    """The arguments of one `twin.simulate.simulate`, under a name that an error can tell.

    Attributes
    ----------
    name
        Free; shown where the scenario is refused.
    workload, server, calibration, horizon_s, warmup_s, seed, client
        As in `simulate`. Scenarios of a batch may share them.
    """

    name: str
    workload: Workload
    server: ServerConfig
    calibration: Calibration
    horizon_s: float = 3600.0
    warmup_s: float = 0.0
    seed: int = 0
    client: ClientConditions = field(default=STEADY_SERVICE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedScenario:
    """A scenario that cannot be simulated, and why.

    Attributes
    ----------
    name
        The scenario's.
    field
        Path of the offending value, where one is to blame.
    message
        What is wrong with it.
    """

    name: str
    field: str | None
    message: str


def simulate_many(
    scenarios: Sequence[Scenario], *, num_workers: int | None = None
) -> list[SimulationReport | RefusedScenario]:
    """Simulate each scenario; one that is refused leaves the others alone.

    Parameters
    ----------
    scenarios
        Independent of each other.
    num_workers
        Processes; None takes one a core, 1 stays in this process. It changes no result. Worker
        processes import the caller's main module, so a script needs ``if __name__ == "__main__"``.

    Returns
    -------
    One entry for each scenario, in their order.
    """
    tasks = [
        scenarios[first : first + SCENARIOS_A_TASK] for first in range(0, len(scenarios), SCENARIOS_A_TASK)
    ]
    return list(chain.from_iterable(map_tasks(_simulate_each, tasks, num_workers)))


def _simulate_each(scenarios: Sequence[Scenario]) -> list[SimulationReport | RefusedScenario]:
    return [_simulate_one(scenario) for scenario in scenarios]


def _simulate_one(scenario: Scenario) -> SimulationReport | RefusedScenario:
    try:
        return simulate(
            scenario.workload,
            scenario.server,
            scenario.calibration,
            horizon_s=scenario.horizon_s,
            warmup_s=scenario.warmup_s,
            seed=scenario.seed,
            client=scenario.client,
        )
    except InvalidInputError as error:
        return RefusedScenario(name=scenario.name, field=error.field, message=error.message)
    except TwinError as error:
        return RefusedScenario(name=scenario.name, field=None, message=str(error))


def map_tasks(
    task: Callable[[Task], Any], tasks: Sequence[Task], num_workers: int | None = None
) -> Iterator[Any]:
    """Yield what `task` makes of each of `tasks`, in order, over processes.

    Parameters
    ----------
    task
        A function of a module, or a `functools.partial` of one: it travels to the workers.
    tasks
        Each large enough to be worth the journey.
    num_workers
        Processes at most; None takes one a core, 1 stays in this process.
    """
    num_workers = min(num_workers or os.cpu_count() or 1, len(tasks))
    if num_workers <= 1:
        yield from map(task, tasks)
        return
    # Spawned, not forked: the parent may hold threads. Workers find kernels compiled in the folder of
    # compiled kernels, where the first task leaves them before the others begin.
    first, *rest = tasks
    yield task(first)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=num_workers, mp_context=context) as pool:
        yield from pool.map(task, rest)
