"""A real Chromium on a real `loadmaster serve`; what a page logs, breaks or asks elsewhere fails its test."""

from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from tests.browser.chromium import CHROMIUM, PATIENCE_S, launch
from tests.browser.fleets import skewed_workload
from tests.support.service_process import ServiceProcess

OPTIONAL = ("/agents", "/drift")
"""Routes that a service may do without; the page says so quietly, the browser logs it."""

WAIT_MS = 1000 * PATIENCE_S


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: make test-browser installs it"
    )
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver, launch(driver) as chromium:
        yield chromium


@contextmanager
def running_service(data_dir, **environment):
    process = ServiceProcess(data_dir, **environment)
    try:
        yield process.start()
    finally:
        process.stop()


@pytest.fixture(scope="session")
def empty_service(browser, tmp_path_factory):
    """Nothing is in force, and no test puts anything there."""
    assert browser.is_connected(), "no service is started for nothing"
    with running_service(tmp_path_factory.mktemp("empty") / "data") as process:
        yield process


@pytest.fixture(scope="session")
def service(browser, tmp_path_factory):
    """A fleet of 2,000 adapters and a small one of another base model."""
    assert browser.is_connected(), "no service is started for nothing"
    with running_service(tmp_path_factory.mktemp("page") / "data") as process:
        for workload in (skewed_workload(2000), skewed_workload(60, base_model="qwen-2.5-7b-instruct")):
            process.client.put("/workload", json=workload).raise_for_status()
        yield process


class Witness:
    """What a page did that it should not have done; a test takes away what it expects."""

    def __init__(self, page, origin):
        self.faults = []
        self._origin = origin
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("request", self._on_request)

    def _on_console(self, message):
        if "status of 503" in message.text:
            return  # the service is busy for a moment, and the page asks again
        if "status of 404" in message.text and message.location["url"].endswith(OPTIONAL):
            return
        if message.type in {"error", "warning"}:
            self.faults.append(f"console {message.type}: {message.text}")

    def _on_request(self, request):
        if urlsplit(request.url).netloc != self._origin and not request.url.startswith(("data:", "blob:")):
            self.faults.append(f"asked elsewhere: {request.url}")

    def expect(self, part):
        """Take away the faults that tell of something the test brought about; there must be one."""
        kept = [fault for fault in self.faults if part not in fault]
        assert len(kept) < len(self.faults), f"nothing told of {part!r}: {self.faults}"
        self.faults[:] = kept


@pytest.fixture
def open_page(browser):
    """A function that opens a view in a new context and returns page and witness."""
    contexts, witnesses = [], []

    def open_it(process, view="fleet", **options):
        base = str(process.client.base_url)
        context = browser.new_context(**({"viewport": {"width": 1360, "height": 1000}} | options))
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        page = context.new_page()
        witness = Witness(page, urlsplit(base).netloc)
        witnesses.append(witness)
        page.goto(f"{base}/#{view}" if view else f"{base}/")
        page.wait_for_selector("html[data-ready=true]")
        return page, witness

    yield open_it
    for context in contexts:
        context.close()
    assert [fault for witness in witnesses for fault in witness.faults] == []
