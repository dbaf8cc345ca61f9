"""Any order of writes, reads and re-placements, on two applications that share a store."""

from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from service.bench import by_columns
from tests.integration.conftest import WINDOW_S, HandClock
from tests.support.waiting import wait_until
from tests.support.workload_documents import LLAMA, QWEN, adapter_document, workload_document

FOLLOWED_S = 10.0
MAX_ADAPTERS = 16
RATES_RPS = (0.01, 0.4, 2.0, 40.0, 100_000.0)
"""From many on a GPU to more than any number of GPUs serves."""

ADAPTERS = st.lists(
    st.tuples(st.integers(0, MAX_ADAPTERS), st.sampled_from(RATES_RPS)),
    min_size=1,
    max_size=MAX_ADAPTERS,
    unique_by=lambda row: row[0],
)
OPTIONS = st.fixed_dictionaries(
    {"num_trials": st.sampled_from((0, 200))},
    optional={"max_gpus": st.integers(1, 3), "replicas": st.booleans(), "max_loras": st.integers(1, 32)},
)
MODELS = st.sampled_from((LLAMA, QWEN))
PROCESSES = st.integers(0, 1)


class WorkloadLife(RuleBasedStateMachine):
    """What a controller does with the service, beside the least that it has to remember itself.

    `documents` are in force, by base model; `seen` tells when each of their plans was adopted and how many
    GPUs it had; `running` are the servers that the controller has started.
    """

    def __init__(self, clock, clients):
        super().__init__()
        self.clock, self.clients = clock, clients
        self.documents, self.seen, self.running = {}, {}, {}

    def teardown(self):
        for base_model in self.documents:
            self.clients[0].delete("/workload", params={"base_model": base_model})
        self.documents.clear()
        self.every_process_tells_what_is_in_force()

    def ask(self, process, method, path, base_model, **options):
        return self.clients[process].request(method, path, params={"base_model": base_model}, **options)

    def acknowledged(self, process, base_model, document, answer):
        """Remember what a write put in force; the process that acknowledged it tells it from then on."""
        assert answer.status_code == 200, answer.text
        self.documents[base_model] = document
        self.running.setdefault(base_model, servers_of(answer.json()))
        self.seen.setdefault(base_model, []).append((self.clock.now_s, answer.json()["num_gpus"]))
        assert self.ask(process, "GET", "/plan", base_model).content == answer.content
        assert self.ask(process, "GET", "/workload", base_model).json() == document

    @rule(process=PROCESSES, base_model=MODELS, rows=ADAPTERS, options=OPTIONS, columns=st.booleans())
    def put(self, process, base_model, rows, options, columns):
        adapters = [adapter_document(number, rate_rps=rate_rps) for number, rate_rps in rows]
        document = workload_document(adapters=adapters, base_model=base_model, options=options)
        document = by_columns(document) if columns else document
        answer = self.clients[process].put("/workload", json=document)
        self.acknowledged(process, base_model, document, answer)

    @precondition(lambda self: self.documents)
    @rule(process=PROCESSES, base_model=MODELS, rows=ADAPTERS)
    def patch(self, process, base_model, rows):
        """Rates of adapters that the workload has change; one that it does not have changes nothing."""
        rates = {f"adapter-{number}": rate_rps for number, rate_rps in rows}
        answer = self.ask(process, "PATCH", "/workload", base_model, json={"rates": rates})
        document = self.documents.get(base_model)
        if document is None:
            assert (answer.status_code, answer.json()["code"]) == (503, "no_plan")
        elif rates.keys() <= set(ids_of(document)):
            self.acknowledged(process, base_model, with_rates(document, rates), answer)
        else:
            assert answer.status_code == 422
            assert answer.json()["field"].removeprefix("rates.") in rates.keys() - set(ids_of(document))

    @precondition(lambda self: self.documents)
    @rule(process=PROCESSES, base_model=MODELS, data=st.data())
    def patch_some_that_it_has(self, process, base_model, data):
        document = self.documents.get(base_model)
        if document is not None:
            ids = ids_of(document)
            drawn = st.dictionaries(st.sampled_from(ids), st.sampled_from(RATES_RPS), min_size=1)
            rates = data.draw(drawn)
            answer = self.ask(process, "PATCH", "/workload", base_model, json={"rates": rates})
            self.acknowledged(process, base_model, with_rates(document, rates), answer)

    @rule(process=PROCESSES, base_model=MODELS, change=st.sampled_from(("twice", "unknown", "max_moves")))
    def a_bad_workload_is_refused(self, process, base_model, change):
        document = workload_document(3, base_model=base_model)
        if change == "twice":
            document["adapters"].append(document["adapters"][0])
        elif change == "unknown":
            document["surprise"] = 1
        else:
            document["options"] = {"max_moves": 1}
        assert self.clients[process].put("/workload", json=document).status_code == 422

    @rule(process=PROCESSES, base_model=MODELS)
    def withdraw(self, process, base_model):
        answer = self.ask(process, "DELETE", "/workload", base_model)
        was_in_force = self.documents.pop(base_model, None) is not None
        self.seen.pop(base_model, None)
        assert answer.status_code == (204 if was_in_force else 503)
        assert self.ask(process, "GET", "/plan", base_model).status_code == 503

    @precondition(lambda self: self.documents)
    @rule(process=PROCESSES, which=st.integers(0, 1))
    def start_the_planned_servers(self, process, which):
        base_model = sorted(self.documents)[which % len(self.documents)]
        self.running[base_model] = servers_of(self.ask(process, "GET", "/plan", base_model).json())

    @precondition(lambda self: self.documents)
    @rule(
        process=PROCESSES,
        which=st.integers(0, 1),
        factor=st.sampled_from((0.1, 1, 10, 30)),
        max_moves=st.sampled_from((None, 0, 1, 3)),
        carry_out=st.booleans(),
    )
    def re_place(self, process, which, factor, max_moves, carry_out):
        """From the servers that run to rates that may come; what is in force stays."""
        base_model = sorted(self.documents)[which % len(self.documents)]
        current, rows = self.running[base_model], by_rows(self.documents[base_model])
        rows["options"] = rows["options"] | {"max_moves": max_moves}
        rows["adapters"] = [
            row | {"rate_rps": min(row["rate_rps"] * factor, RATES_RPS[-1])} for row in rows["adapters"]
        ]
        answer = self.clients[process].post("/re-place", json=rows | {"current": {"gpus": current}})
        assert answer.status_code == 200, answer.text
        delta = answer.json()
        assert_covers(delta, ids_of(rows))
        assert max_moves is None or len(delta["moves"]) <= max_moves
        home, target = homes_of(current), homes_of(delta["gpus"])
        for move in delta["moves"]:
            assert move["from"] in home[move["adapter"]]
            assert move["to"] in target[move["adapter"]]
        if carry_out:
            self.running[base_model] = servers_of(delta)

    @rule(seconds=st.sampled_from((1.0, WINDOW_S / 2, WINDOW_S + 1)))
    def time_passes(self, seconds):
        self.clock.now_s += seconds

    @invariant()
    def every_process_tells_what_is_in_force(self):
        for client in self.clients:
            wait_until(lambda told=client: self.follows(told), timeout_s=FOLLOWED_S, what="following")
        for base_model, document in self.documents.items():
            plans = [self.ask(process, "GET", "/plan", base_model).json() for process in range(2)]
            assert plans[0] == plans[1]
            assert_covers(plans[0], ids_of(document))
            for process in range(2):
                self.check_gpus_needed(process, base_model, plans[0])

    def follows(self, client):
        listed = client.get("/workloads").json()["workloads"]
        if {row["base_model"] for row in listed} != self.documents.keys():
            return False
        return all(
            client.get("/workload", params={"base_model": name}).json() == document
            for name, document in self.documents.items()
        )

    def check_gpus_needed(self, process, base_model, plan):
        """The number covers every plan of the window, exceeds none that was seen, and is never 0."""
        answer = self.ask(process, "GET", "/gpus-needed", base_model)
        seen = self.seen[base_model]
        if not any(num_gpus for _, num_gpus in seen):
            assert (answer.status_code, answer.json()["field"]) == (503, "adapters")
            return
        needed = answer.json()
        assert needed["plan_id"] == plan["plan_id"]
        assert (needed["raw"] or 0) == plan["num_gpus"] == seen[-1][1]
        opens_s = self.clock.now_s - WINDOW_S
        ended_s = [moment for moment, _ in seen[1:]] + [self.clock.now_s]
        recent = max(num_gpus for (_, num_gpus), end_s in zip(seen, ended_s, strict=True) if end_s > opens_s)
        assert needed["gpus_needed"] >= max(1, recent)
        assert needed["gpus_needed"] <= max(num_gpus for _, num_gpus in seen)


def ids_of(document):
    return [row["id"] for row in by_rows(document)["adapters"]]


def by_rows(document):
    adapters = document["adapters"]
    if isinstance(adapters, list):
        return dict(document)
    rows = [dict(zip(adapters, row, strict=True)) for row in zip(*adapters.values(), strict=True)]
    return document | {"adapters": rows}


def with_rates(document, rates):
    rows = by_rows(document)
    changed = [row | {"rate_rps": rates.get(row["id"], row["rate_rps"])} for row in rows["adapters"]]
    rows = rows | {"adapters": changed}
    return rows if isinstance(document["adapters"], list) else by_columns(rows)


def servers_of(plan):
    return [
        {name: gpu[name] for name in ("gpu", "max_loras", "max_lora_rank", "adapters")}
        for gpu in plan["gpus"]
    ]


def homes_of(gpus):
    homes = {}
    for gpu in gpus:
        for name in gpu["adapters"]:
            homes.setdefault(name, set()).add(gpu["gpu"])
    return homes


def assert_covers(plan, ids):
    """Every adapter is on one GPU, on several whose shares make up all of it, or told to have no GPU.

    Of an adapter that needs several GPUs, some may be there and the others not.
    """
    placed = Counter(name for gpu in plan["gpus"] for name in gpu["adapters"])
    unplaced = [row["adapter"] for row in plan["unplaced"]]
    shares = {row["adapter"]: sum(gpu["share"] for gpu in row["gpus"]) for row in plan["replicas"]}
    assert placed.keys() | set(unplaced) == set(ids)
    assert len(unplaced) == len(set(unplaced))
    assert placed.keys() & set(unplaced) <= shares.keys()
    assert {name for name, count in placed.items() if count > 1} <= shares.keys()
    for name, share in shares.items():
        assert share < 1 - 1e-5 if name in unplaced else share == pytest.approx(1, abs=1e-4)
    assert len(plan["gpus"]) == plan["num_gpus"]
    assert all(gpu["adapters"] for gpu in plan["gpus"])


def test_whatever_is_done_every_process_tells_the_plan_of_the_workload_in_force(fleet):
    clock = HandClock()
    clients = [fleet.client(clock.as_clock()) for _ in range(2)]
    run_state_machine_as_test(
        lambda: WorkloadLife(clock, clients),
        settings=settings(
            max_examples=15,
            stateful_step_count=12,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],  # to shrink what fails would take minutes here
            suppress_health_check=list(HealthCheck),
        ),
    )
