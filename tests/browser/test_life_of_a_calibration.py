"""Agents, drift, versions put in force and rolled back, a recalibration: on the page, with data behind it."""

import pytest

from service.drill.measurements import twin_tables
from service.drill.variants import publish_changed
from service.settings import Settings
from service.storage.connection import connect
from service.storage.files import FileExchange
from service.storage.versions import VersionStore
from tests.browser.chromium import PATIENCE_S
from tests.browser.conftest import running_service
from tests.browser.fleets import skewed_workload
from tests.support.live_samples import as_predicted
from tests.support.waiting import wait_until
from tests.support.workload_documents import LLAMA, LLAMA_CALIBRATION

SHORT = {
    "LOADMASTER_GATE_SLACK": "20",  # few rows teach less than many; here it counts that they arrive
    "LOADMASTER_ROWS_A_BATCH": "16",
    "LOADMASTER_WORKER_NICE": "0",
    "LOADMASTER_REFRESH_INTERVAL_S": "1",
}
ROWS = 64
RECALIBRATED_S = 480
OTHER = "cpu/small-random-llama/vllm-0.32.0"

AGENT = {
    "agent_id": "measuring-host-1",
    "gpu_type": "cpu",
    "engine_version": "vllm-0.32.0",
    "base_models": ["small-random-llama"],
    "memory_bytes": 80 * 2**30,
}


@pytest.fixture(scope="module")
def service(browser, tmp_path_factory):
    """A small fleet, and a service that recalibrates in a minute or two."""
    assert browser.is_connected(), "no service is started for nothing"
    with running_service(tmp_path_factory.mktemp("life") / "data", **SHORT) as process:
        process.client.put("/workload", json=skewed_workload(60)).raise_for_status()
        yield process


@pytest.fixture
def agent(service):
    """An agent that registered, and is forgotten whatever happens."""
    service.client.post("/agents", json=AGENT).raise_for_status()
    yield AGENT["agent_id"]
    service.client.delete(f"/agents/{AGENT['agent_id']}")


def row(page, table, text):
    return page.locator(f"{table} tbody tr", has_text=text)


def wait_for_text(locator, *texts, meanwhile=lambda: None):
    """Wait until a row or box of the page tells all of some texts."""

    def told():
        meanwhile()
        if not locator.count():
            return ""
        text = " ".join(locator.first.inner_text().split())
        return text if all(part in text for part in texts) else ""

    return wait_until(told, timeout_s=PATIENCE_S, what=f"{texts} on the page")


def slow_sample(factor):
    """What an agent would send of a live server whose ITL is so many times the twin's."""
    sample = as_predicted()
    return sample | {"itl_ms": factor * sample["itl_ms"]}


def test_an_agent_is_listed_with_what_it_measures_until_it_is_forgotten(service, agent, open_page):
    page, _ = open_page(service, "hosts")
    wait_for_text(row(page, "#agents", agent), "idle", "cpu, 80 GiB", "vllm-0.32.0", "small-random-llama")
    target = dict(zip(("gpu_type", "base_model", "engine_version"), OTHER.split("/"), strict=True))
    job_id = service.client.post("/recalibrate", json=target).raise_for_status().json()["job_id"]
    work = f"/agents/{agent}/work"
    wait_until(lambda: service.client.post(work).json()["work"], timeout_s=PATIENCE_S, what="its work")
    beat = {"job_id": job_id, "progress": 0.4}  # again and again: its lease ends without
    wait_for_text(
        row(page, "#agents", agent),
        *("measuring", "small-random-llama, 40 %"),
        meanwhile=lambda: service.client.post(f"/agents/{agent}/heartbeat", json=beat),
    )
    service.client.post(f"/jobs/{job_id}/cancel").raise_for_status()
    wait_for_text(row(page, "#agents", agent), "idle")
    row(page, "#agents", agent).locator("button").click()
    page.click("#confirm-yes")
    wait_for_text(page.locator("#agents"), "No agent has registered")
    assert service.client.get("/agents").json()["agents"] == []


def test_a_calibration_that_drifted_is_told_beside_what_was_measured(service, agent, open_page):
    page, _ = open_page(service, "hosts")
    wait_for_text(page.locator("#drift"), "No agent has compared")
    sample = slow_sample(1.5)
    for _ in range(5):
        service.client.post(f"/agents/{agent}/samples", json=sample).raise_for_status()
    wait_for_text(row(page, "#drift", LLAMA_CALIBRATION), "drifted", "itl 1.5", "POST /recalibrate")


def version_of_plan(service):
    return service.client.get("/plan", params={"base_model": LLAMA}).json()["surrogate_version"]


def test_a_version_is_put_in_force_and_rolled_back_and_the_plan_follows(service, open_page):
    shipped = version_of_plan(service)
    settings = Settings(data_dir=service.data_dir)
    redis = connect(settings)
    published = publish_changed(
        VersionStore(FileExchange(settings.data_dir, redis)), LLAMA_CALIBRATION, 1
    ).name
    redis.close()
    page, _ = open_page(service, "models")
    offered = row(page, "#surrogates", published)
    offered.locator("button:has-text('Activate')").click()
    assert shipped in page.inner_text("#confirm-text")
    page.click("#confirm-no")
    offered.locator("button:has-text('Activate')").click()
    page.click("#confirm-yes")
    wait_for_text(offered, "in force", "Roll back")
    wait_until(lambda: version_of_plan(service) == published, timeout_s=PATIENCE_S, what="a new plan")
    offered.locator("button:has-text('Roll back')").click()
    page.click("#confirm-yes")
    wait_for_text(row(page, "#surrogates", shipped), "in force")
    wait_for_text(offered, "Activate")
    wait_until(lambda: version_of_plan(service) == shipped, timeout_s=PATIENCE_S, what="the plan before")


def ask_for_recalibration(page, target, *, rows=ROWS):
    wait_until(lambda: page.input_value("#recalibrate-target"), timeout_s=PATIENCE_S, what="a target")
    page.fill("#recalibrate-target", target)
    page.fill("#recalibrate-rows", str(rows))
    page.click("#recalibrate-form button[type=submit]")
    page.click("#confirm-yes")


def test_a_recalibration_that_waits_for_agents_is_followed_to_its_cancellation(service, open_page):
    page, _ = open_page(service, "models")
    ask_for_recalibration(page, OTHER)
    progress = page.locator("#recalibrate-progress")
    wait_for_text(progress, "measuring", "under way")
    other, _ = open_page(service, "jobs")
    row(other, "#jobs-table", "recalibrate").locator("button").first.click()
    other.click("#job-detail button:has-text('Cancel')")
    other.click("#confirm-yes")
    wait_for_text(progress, "cancelled")


@pytest.mark.timeout(900)
def test_a_recalibration_from_tables_of_the_page_is_followed_until_its_surrogate_is_in_force(
    service, open_page, tmp_path
):
    for name, content in twin_tables().items():
        (tmp_path / name).write_bytes(content)
    shipped = version_of_plan(service)
    page, _ = open_page(service, "models")
    page.set_input_files("#recalibrate-tables", sorted(tmp_path.iterdir()))
    wait_until(
        lambda: page.input_value("#recalibrate-set"), timeout_s=PATIENCE_S, what="the set of the tables"
    )
    ask_for_recalibration(page, LLAMA_CALIBRATION)
    progress = page.locator("#recalibrate-progress")
    seen_live = set()

    def ended():
        stages = [line.split("\t") for line in progress.inner_text().splitlines()]
        seen_live.update(cells[0].strip() for cells in stages if "under way" in cells)
        return stages and any(state in stages[0][0] for state in ("finished", "failed", "cancelled"))

    wait_until(ended, timeout_s=RECALIBRATED_S, what="the recalibration's end")
    wait_for_text(progress, "finished", "fitting", "simulating", "training", "validating", "published")
    assert seen_live & {"fitting", "simulating", "training", "validating"}, "it was followed while it ran"
    wait_until(
        lambda: version_of_plan(service) != shipped, timeout_s=PATIENCE_S, what="another surrogate's plan"
    )
    wait_for_text(row(page, "#surrogates", version_of_plan(service)), "in force", "published")
