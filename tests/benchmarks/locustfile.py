"""Load as a fleet's users make it: planners, an autoscaler, a controller. By hand, with locust installed:

    locust -f tests/benchmarks/locustfile.py --host http://127.0.0.1:8080 --headless -u 20 -r 5 -t 60s

With keys, give one of scope `ops` in LOADMASTER_KEY. What is in force on that service is replaced.
"""

import os
import random

from locust import HttpUser, between, constant_pacing, task

from service.bench import bench_workload, by_columns

NUM_ADAPTERS = 500
KEY = os.environ.get("LOADMASTER_KEY")
HEADERS = {} if KEY is None else {"Authorization": f"Bearer {KEY}"}


class Planner(HttpUser):
    """Places workloads that nobody has placed before."""

    weight = 5
    wait_time = between(0.5, 2)

    @task(3)
    def place_by_rows(self):
        self.client.post("/place", json=self._workload(), headers=HEADERS, name="/place rows")

    @task(1)
    def place_by_columns(self):
        document = by_columns(self._workload())
        self.client.post("/place", json=document, headers=HEADERS, name="/place columns")

    def _workload(self):
        document = bench_workload(NUM_ADAPTERS)
        document["adapters"][0]["rate_rps"] = random.uniform(0.01, 0.4)
        return document


class Autoscaler(HttpUser):
    """Asks how many GPUs to run, every second."""

    weight = 10
    wait_time = constant_pacing(1)

    @task
    def ask(self):
        self.client.get("/gpus-needed", headers=HEADERS)


class Controller(HttpUser):
    """Puts a workload in force and then changes its rates."""

    fixed_count = 1
    wait_time = between(2, 5)

    def on_start(self):
        self.client.put("/workload", json=bench_workload(NUM_ADAPTERS), headers=HEADERS)

    @task
    def change_rates(self):
        changed = random.sample(range(NUM_ADAPTERS), 20)
        rates = {f"adapter-{number}": random.uniform(0.01, 0.4) for number in changed}
        self.client.patch("/workload", json={"rates": rates}, headers=HEADERS)
