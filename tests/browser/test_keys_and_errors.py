import pytest

from service.services.keys import make_key
from service.storage.keys import KeyFile
from tests.browser.chromium import PATIENCE_S
from tests.browser.conftest import running_service
from tests.browser.fleets import skewed_workload
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def locked(browser, tmp_path_factory):
    """A service with keys of two scopes; its client holds the one for acts."""
    assert browser.is_connected(), "no service is started for nothing"
    data_dir = tmp_path_factory.mktemp("locked") / "data"
    data_dir.mkdir(mode=0o700)
    file = KeyFile(data_dir / "keys.json")
    secrets = {}
    for scope in ("place", "ops"):
        key, secrets[scope] = make_key(scope, [scope], now_s=0)
        file.add(key)
    with running_service(data_dir) as process:
        process.secrets = secrets
        process.client.headers["Authorization"] = f"Bearer {secrets['ops']}"
        process.client.put("/workload", json=skewed_workload(30)).raise_for_status()
        yield process


def give_key(page, key):
    page.fill("#key-input", key)
    page.click("#key-form button.main")


def test_a_key_is_asked_for_a_wrong_one_refused_and_a_right_one_opens(locked, open_page):
    page, witness = open_page(locked)
    page.wait_for_selector("#key-dialog[open]")
    give_key(page, "lm_000000000000_wrong")
    wait_until(
        lambda: "valid API key" in page.inner_text("#key-error"), timeout_s=PATIENCE_S, what="the refusal"
    )
    give_key(page, locked.secrets["place"])
    page.wait_for_selector("#key-dialog", state="hidden")
    wait_until(lambda: "30" in page.inner_text("#fleet-plan"), timeout_s=PATIENCE_S, what="the fleet")
    witness.expect("status of 401")
    assert page.evaluate("localStorage.length") == 0
    page.reload()
    page.wait_for_selector("html[data-ready=true]")
    assert not page.is_visible("#key-dialog")


def test_a_forgotten_key_opens_nothing(locked, open_page):
    page, witness = open_page(locked)
    give_key(page, locked.secrets["place"])
    page.wait_for_selector("#key-dialog", state="hidden")
    page.click("#key-button")
    page.click("#key-forget")
    page.wait_for_selector("#key-dialog[open]")
    assert page.evaluate("sessionStorage.getItem('loadmaster.key')") is None
    witness.expect("status of 401")


def test_an_act_beyond_the_scope_of_a_key_is_refused_aloud(locked, open_page):
    page, witness = open_page(locked, "plan")
    give_key(page, locked.secrets["place"])
    page.wait_for_selector("#key-dialog", state="hidden")
    page.click("#try-example")
    page.click("#try-form button.main")
    page.click("#try-put:not([disabled])")
    page.click("#confirm-yes")
    wait_until(
        lambda: "lacks the scope ops" in page.inner_text("#try-error"),
        timeout_s=PATIENCE_S,
        what="the refusal",
    )
    witness.expect("status of 401")
    witness.expect("status of 403")


def test_a_call_that_fails_is_told_and_the_page_recovers(service, open_page):
    page, witness = open_page(service)
    page.route("**/workloads", lambda route: route.abort())
    page.select_option("#fleet-choice", "qwen-2.5-7b-instruct on h100-64gb")
    page.wait_for_selector("#notices .notice")
    assert "could not be reached" in page.inner_text("#notices")
    page.unroute("**/workloads")
    page.click("#notices button")
    assert page.inner_text("#notices") == ""
    wait_until(
        lambda: "60" in page.inner_text("#fleet-plan"), timeout_s=PATIENCE_S, what="the fleet's return"
    )
    witness.expect("net::ERR_FAILED")
