"""Jobs, workers, calibrations and surrogates."""

from tests.browser.chromium import PATIENCE_S
from tests.browser.fleets import skewed_workload
from tests.support.waiting import wait_until
from tests.support.workload_documents import LLAMA_CALIBRATION, adapter_document, workload_document

LONG_RUN = {
    "workload": workload_document(adapters=[adapter_document(n, rate_rps=0.5) for n in range(12)]),
    "max_loras": 8,
    "horizon_s": 604_800.0,
}
SHORT_RUN = LONG_RUN | {"horizon_s": 60.0}


MARK_ROWS = "of => document.querySelectorAll(`${of} tbody tr`).forEach((row) => (row.dataset.old = true))"


def text_of(page, selector):
    return " ".join(page.inner_text(selector).split())


def wait_for_fresh_rows(page, table):
    """Wait until the page has asked anew and drawn what it was told."""
    page.evaluate(MARK_ROWS, table)
    page.wait_for_selector(f"{table} tbody tr:not([data-old])")


def sort_downwards(page, table, title):
    """Sort by a column of texts, which begins upwards, and leave the keyboard on its title."""
    heading = page.locator(f"{table} thead button:has-text('{title}')")
    heading.click()
    heading.click()
    return page.locator(f"{table} thead th:has-text('{title}')")


def column_of(page, table):
    return page.locator(f"{table} tbody tr td:first-child").all_inner_texts()


def test_jobs_are_listed_by_state_and_one_is_shown(service, open_page):
    service.client.post("/place", json=skewed_workload(3)).raise_for_status()
    wait_until(lambda: service.client.get("/jobs").json()["jobs"], timeout_s=PATIENCE_S, what="a job")
    page, _ = open_page(service, "jobs")
    page.click("#jobs-table tbody tr:first-child button")
    page.wait_for_selector("#job-detail:not([hidden])")
    assert "Kind verify" in text_of(page, "#job-detail")
    page.select_option("#jobs-state", "cancelled")
    wait_until(
        lambda: "No job" in page.inner_text("#jobs-table"), timeout_s=PATIENCE_S, what="the shorter list"
    )


def test_a_job_that_runs_is_cancelled_when_it_is_confirmed_and_its_end_shows(empty_service, open_page):
    job_id = empty_service.client.post("/simulate", json=LONG_RUN).json()["job_id"]
    page, _ = open_page(empty_service, "jobs")
    page.click(f"#jobs-table tbody button:has-text('{job_id}')")
    page.click("#job-detail button:has-text('Cancel')")
    page.click("#confirm-yes")
    wait_until(
        lambda: "cancelled" in text_of(page, "#job-detail"), timeout_s=PATIENCE_S, what="the job's end"
    )
    assert empty_service.client.get(f"/jobs/{job_id}").json()["state"] == "cancelled"


def test_versions_are_listed_with_their_figures_and_what_cannot_be_rolled_back_is_told(service, open_page):
    page, witness = open_page(service, "models")
    page.click(f"#surrogates tbody tr:has-text('{LLAMA_CALIBRATION}') td:first-child button")
    told = text_of(page, "#model-detail")
    assert "tree (serves)" in told
    assert "Data set" in told
    page.click(f"#surrogates tbody tr:has-text('{LLAMA_CALIBRATION}') button:has-text('Roll back')")
    page.click("#confirm-yes")
    wait_until(lambda: page.inner_text("#models-error"), timeout_s=PATIENCE_S, what="the refusal")
    witness.expect("status of 409")


def test_a_recalibration_of_what_has_no_name_is_refused_by_field(service, open_page):
    page, witness = open_page(service, "models")
    wait_until(
        lambda: page.input_value("#recalibrate-target"), timeout_s=PATIENCE_S, what="the calibration's name"
    )
    page.fill("#recalibrate-target", "h100-64gb/ /vllm-0.8.5")
    page.click("#recalibrate-form button[type=submit]")
    page.click("#confirm-yes")
    wait_until(
        lambda: "base_model" in page.inner_text("#recalibrate-error"), timeout_s=PATIENCE_S, what="the field"
    )
    witness.expect("status of 422")


def test_workers_and_queues_are_listed(service, open_page):
    page, _ = open_page(service, "hosts")
    wait_until(
        lambda: page.locator("#workers tbody tr td").count() > 1, timeout_s=PATIENCE_S, what="a worker"
    )
    assert "twin" in text_of(page, "#queues")


def test_a_list_that_is_kept_fresh_keeps_its_order_and_the_place_of_the_keyboard(service, open_page):
    page, _ = open_page(service, "hosts")
    heading = sort_downwards(page, "#queues", "Queue")
    before = column_of(page, "#queues")
    assert before == sorted(before, reverse=True)
    assert len(before) > 1
    wait_for_fresh_rows(page, "#queues")
    assert column_of(page, "#queues") == before
    assert heading.get_attribute("aria-sort") == "descending"
    assert page.evaluate("document.activeElement.textContent") == "Queue"


def test_the_keyboard_stays_on_its_job_when_a_newer_one_comes_before_it(service, open_page):
    service.client.post("/place", json=skewed_workload(3)).raise_for_status()
    wait_until(lambda: service.client.get("/jobs").json()["jobs"], timeout_s=PATIENCE_S, what="a job")
    page, _ = open_page(service, "jobs")
    page.focus("#jobs-table tbody tr:first-child button")
    job_id = page.evaluate("document.activeElement.textContent")
    newer = service.client.post("/simulate", json=SHORT_RUN).json()["job_id"]
    page.wait_for_selector(f"#jobs-table tbody tr:has-text('{newer}')")
    assert page.evaluate("document.activeElement.textContent") == job_id


def test_a_list_that_could_not_be_fetched_comes_back_in_its_order(service, open_page):
    page, witness = open_page(service, "hosts")
    heading = sort_downwards(page, "#workers", "Worker")
    page.route("**/workers", lambda route: route.abort())
    page.wait_for_selector("#workers:has-text('could not be reached')")
    page.unroute("**/workers")
    page.wait_for_selector("#workers tbody tr")
    assert heading.get_attribute("aria-sort") == "descending"
    witness.expect("net::ERR_FAILED")


def test_versions_stay_sorted_and_their_numbers_open_when_the_view_is_opened_again(service, open_page):
    page, _ = open_page(service, "models")
    heading = sort_downwards(page, "#surrogates", "Calibration")
    before = column_of(page, "#surrogates")
    page.click("#accuracy summary")
    page.click("nav a[href='#hosts']")
    page.evaluate(MARK_ROWS, "#surrogates")
    page.click("nav a[href='#models']")
    page.wait_for_selector("#surrogates tbody tr:not([data-old])")
    assert heading.get_attribute("aria-sort") == "descending"
    assert column_of(page, "#surrogates") == before
    assert page.locator("#accuracy details tbody tr").count() == len(before)
    assert page.locator("#accuracy canvas").count() == 1
