"""What the page computes by itself, run in the browser beside plain Python."""

import random

import pytest

from tests.browser.fleets import skewed_workload

NUM_CASES = 60
CALL = """
async ([module, name, calls]) => {
  const base = document.querySelector('script[type=module]').src.replace(/[^/]+$/, '');
  const found = await import(base + module);
  return calls.map((values) => found[name](...values));
}
"""


@pytest.fixture
def call(empty_service, open_page):
    """A function that calls a function of a module for each tuple of arguments."""
    page, _ = open_page(empty_service)
    return lambda module, name, calls: page.evaluate(CALL, [module, name, calls])


def some_plan(dice, adapters):
    """A plan of some of the adapters, GPUs under scattered numbers."""
    numbers = dice.sample(range(12), dice.randint(1, 6))
    homes = {adapter: dice.choice(numbers) for adapter in adapters if dice.random() < 0.9}
    return [
        {
            "gpu": number,
            "max_loras": dice.choice([8, 16]),
            "max_lora_rank": 16,
            "adapters": [adapter for adapter, home in homes.items() if home == number],
        }
        for number in numbers
    ]


def carried_out(before, change):
    """The adapters of each GPU once the moves are made, by what is together."""
    gpus = {gpu["gpu"]: set(gpu["adapters"]) for gpu in before}
    gpus |= {number: set() for number in change["opened"]}
    for move in change["moves"]:
        if move["from"] is not None:
            gpus[move["from"]].remove(move["adapter"])
        if move["to"] is not None:
            gpus[move["to"]].add(move["adapter"])
    assert all(not gpus.pop(number) for number in change["closed"])
    return sorted(sorted(adapters) for adapters in gpus.values())


def test_the_moves_between_two_plans_lead_from_one_to_the_other(call):
    dice = random.Random(0)
    names = [f"a{number}" for number in range(40)]
    pairs = [(some_plan(dice, names), some_plan(dice, names)) for _ in range(NUM_CASES)]
    for (before, after), change in zip(pairs, call("matching.js", "difference", pairs), strict=True):
        assert carried_out(before, change) == sorted(sorted(gpu["adapters"]) for gpu in after)
        assert not set(change["opened"]) & {gpu["gpu"] for gpu in before}


def test_a_plan_under_other_numbers_is_the_same_plan(call):
    dice = random.Random(1)
    plan = [gpu for gpu in some_plan(dice, [f"a{number}" for number in range(40)]) if gpu["adapters"]]
    renumbered = [gpu | {"gpu": 100 - gpu["gpu"]} for gpu in reversed(plan)]
    (change,) = call("matching.js", "difference", [(plan, renumbered)])
    assert change == {"moves": [], "restarts": [], "opened": [], "closed": []}


def test_every_cell_of_the_map_is_found_where_it_is_drawn(call):
    counts = [0, 1, 99, 100, 101, 384]
    for width in (180, 400, 1300):
        (layout,) = call("layout.js", "layOut", [(counts, width)])
        places = [
            {"band": band, "cell": cell} for band, count in enumerate(counts) for cell in range(-1, count)
        ]
        corners = call("layout.js", "cornerOf", [(layout, place) for place in places])
        assert len({(corner["x"], corner["y"]) for corner in corners}) == len(places)
        middles = [(layout, corner["x"] + 4, corner["y"] + 4) for corner in corners]
        assert call("layout.js", "placeAt", middles) == places


def test_the_arrow_keys_lead_through_every_cell_and_back(call):
    counts = [2, 0, 3]
    (layout,) = call("layout.js", "layOut", [(counts, 400)])
    start = {"band": 0, "cell": -1}
    for key, back in (("ArrowRight", "ArrowLeft"), ("ArrowDown", "ArrowUp")):
        path = [start]
        while (step := call("layout.js", "moved", [(layout, path[-1], key)])[0]) is not None:
            path.append(step)
        assert len(path) == (sum(counts) + len(counts) if key == "ArrowRight" else len(counts))
        for place, before in zip(path[:0:-1], path[-2::-1], strict=True):
            assert call("layout.js", "moved", [(layout, place, back)]) == [before]


def test_a_workload_by_columns_is_the_same_as_by_rows(call):
    rows = skewed_workload(5)
    columns = rows | {
        "adapters": {name: [row[name] for row in rows["adapters"]] for name in rows["adapters"][0]}
    }
    by_rows, by_columns = call("model.js", "adaptersOf", [(rows,), (columns,)])
    assert by_rows == by_columns
