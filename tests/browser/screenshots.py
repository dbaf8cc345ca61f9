"""The pictures of `docs/ops-page.md`: `python -m tests.browser.screenshots docs/images`.

It starts a service, gives it a fleet whose rates rise and fall, and takes the views in light and dark.
"""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.chromium import PATIENCE_S, launch
from tests.browser.fleets import skewed_workload
from tests.support.service_process import ServiceProcess
from tests.support.waiting import wait_until

SIZE = {"width": 1280, "height": 900}
RATES = (1.0, 1.3, 1.7, 1.2, 0.8, 1.1)
LLAMA = {"base_model": "llama-3.1-8b-instruct"}


def history(service):
    return service.client.get("/gpus-needed/history", params=LLAMA).json()["points"]


def make_history(service, workload):
    """Change the rates until the history has a point for each change of the number."""
    for factor in RATES:
        rates = {row["id"]: row["rate_rps"] * factor for row in workload["adapters"]}
        before = service.client.get("/gpus-needed", params=LLAMA).json()["raw"]
        after = (
            service.client.patch("/workload", params=LLAMA, json={"rates": rates}).raise_for_status().json()
        )
        running = {"gpus_running": max(before, after["num_gpus"])}
        service.client.put("/gpus-running", params=LLAMA, json=running).raise_for_status()
        planned = after["num_gpus"]
        wait_until(lambda: history(service)[-1]["planned"] == planned, timeout_s=PATIENCE_S, what="the point")  # noqa: B023


def opened(browser, service, view, scheme):
    page = browser.new_context(viewport=SIZE, color_scheme=scheme).new_page()
    page.goto(f"{service.client.base_url}/#{view}")
    page.wait_for_selector("html[data-ready=true]")
    if view == "fleet":
        page.wait_for_selector("#needed-chart canvas")
    return page


def take(browser, service, folder):
    """Take every picture."""
    for scheme in ("light", "dark"):
        page = opened(browser, service, "fleet", scheme)
        page.select_option("#fleet-plan [data-part=colour]", "load" if scheme == "light" else "room")
        page.screenshot(path=folder / f"ops-page-fleet-{scheme}.png")
    page = opened(browser, service, "plan", "light")
    page.click("#try-example")
    wait_until(lambda: page.input_value("#try-text"), timeout_s=PATIENCE_S, what="the example")
    page.click("#try-form button.main")
    page.wait_for_selector("#try-plan:not([hidden])")
    page.click("#what-sweep")
    page.wait_for_selector("#what-chart canvas")
    page.screenshot(path=folder / "ops-page-plan-light.png")
    page = opened(browser, service, "models", "dark")
    page.wait_for_selector("#surrogates tbody tr button")
    page.screenshot(path=folder / "ops-page-models-dark.png")


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, sync_playwright() as driver:
        service = ServiceProcess(Path(directory) / "data").start()
        try:
            workload = skewed_workload(2000)
            service.client.put("/workload", json=workload).raise_for_status()
            make_history(service, workload)
            with launch(driver) as browser:
                take(browser, service, folder)
        finally:
            service.stop()


if __name__ == "__main__":
    main()
