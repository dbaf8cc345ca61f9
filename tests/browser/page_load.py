"""How long the page takes with 2,000 adapters: `python -m tests.browser.page_load`.

A load is measured by the browser: from the start of the navigation to the page's own mark, set once plan,
workload and numbers are shown. Each load has an empty cache. It starts a service of its own.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.chromium import launch
from tests.browser.fleets import skewed_workload
from tests.support.service_process import ServiceProcess

NUM_LOADS = 7
READY = "performance.getEntriesByName('ready')[0].startTime"


def load_times_s(browser, url):
    """Return the seconds of each of some loads."""
    times = []
    for _ in range(NUM_LOADS):
        context = browser.new_context(viewport={"width": 1360, "height": 1000})
        page = context.new_page()
        page.goto(url)
        page.wait_for_selector("html[data-ready=true]")
        times.append(page.evaluate(READY) / 1000)
        context.close()
    return times


def main():
    with tempfile.TemporaryDirectory() as directory, sync_playwright() as driver:
        service = ServiceProcess(Path(directory) / "data").start()
        try:
            service.client.put("/workload", json=skewed_workload(2000)).raise_for_status()
            with launch(driver) as browser:
                times = load_times_s(browser, f"{service.client.base_url}/")
        finally:
            service.stop()
    figures = {
        "adapters": 2000,
        "loads": len(times),
        "median_s": statistics.median(times),
        "max_s": max(times),
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
