import json
import re

from tests.browser.chromium import PATIENCE_S
from tests.browser.fleets import skewed_workload
from tests.support.waiting import wait_until

NUM_ADAPTERS = 2000


def text_of(page, selector):
    return " ".join(page.inner_text(selector).split())


def test_the_fleet_in_force_is_shown_with_its_figures(service, open_page):
    page, _ = open_page(service)
    plan = service.client.get("/plan", params={"base_model": "llama-3.1-8b-instruct"}).json()
    tiles = text_of(page, "#fleet-plan [data-part=tiles]")
    assert f"GPUs of the plan {plan['num_gpus']}" in tiles
    assert "Adapters 2,000" in tiles
    assert page.locator("#fleet-plan [data-part=gpus] tbody tr").count() == plan["num_gpus"]
    assert " ".join(plan["gpus"][0]["vllm_args"]) in text_of(page, "#fleet-plan [data-part=detail]")
    label = page.get_attribute("#fleet-plan [data-part=map] canvas", "aria-label")
    assert label == f"{plan['num_gpus']} GPUs with 2,000 adapters"


def test_another_fleet_is_shown_when_it_is_chosen(service, open_page):
    page, _ = open_page(service)
    page.select_option("#fleet-choice", "qwen-2.5-7b-instruct on h100-64gb")
    wait_until(
        lambda: "Adapters 60" in text_of(page, "#fleet-plan [data-part=tiles]"),
        timeout_s=PATIENCE_S,
        what="the other fleet",
    )
    page.reload()
    page.wait_for_selector("html[data-ready=true]")
    assert "Adapters 60" in text_of(page, "#fleet-plan [data-part=tiles]")


def test_a_click_on_a_row_shows_that_gpu(service, open_page):
    page, _ = open_page(service)
    rows = page.locator("#fleet-plan [data-part=gpus] tbody tr")
    rows.nth(2).click()
    assert rows.nth(2).get_attribute("aria-selected") == "true"
    assert text_of(page, "#fleet-plan [data-part=detail] h3") == "GPU 2"


def test_the_map_tells_what_the_mouse_and_the_keyboard_point_at(service, open_page):
    page, _ = open_page(service)
    canvas = page.locator("#fleet-plan [data-part=map] canvas")
    readout = "#fleet-plan [data-part=readout]"
    canvas.hover(position={"x": 182, "y": 10})
    assert re.match(r"customer-\d+ on GPU 0: rank \d+, ", text_of(page, readout))
    canvas.focus()
    page.keyboard.press("Home")
    assert text_of(page, readout).startswith("GPU 0: ")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert " on GPU 1: " in text_of(page, readout)
    page.keyboard.press("Enter")
    assert text_of(page, "#fleet-plan [data-part=detail] h3") == "GPU 1"
    canvas.click(position={"x": 20, "y": 10})
    assert text_of(page, "#fleet-plan [data-part=detail] h3") == "GPU 0"


def test_an_adapter_is_found_on_the_map_and_in_the_table(service, open_page):
    page, _ = open_page(service)
    page.fill("#fleet-plan [data-part=find]", "customer-0042")
    assert "1 adapters match, first on GPU" in text_of(page, "#fleet-plan [data-part=readout]")
    page.click("#fleet-plan [data-part=adapters-box] > summary")
    page.fill("#fleet-plan [data-part=adapters] input[type=search]", "customer-0042")
    rows = page.locator("#fleet-plan [data-part=adapters] tbody tr")
    assert rows.count() == 1
    assert "customer-0042" in rows.first.inner_text()


def test_a_table_of_all_adapters_turns_its_pages_and_sorts(service, open_page):
    page, _ = open_page(service, "workload")
    rows = page.locator("#workload-adapters tbody tr")
    assert rows.count() == 100
    assert "1 to 100 of 2,000" in text_of(page, "#workload-adapters .table-foot")
    page.click("#workload-adapters .table-foot button:has-text('Next')")
    assert "101 to 200 of 2,000" in text_of(page, "#workload-adapters .table-foot")
    page.click("#workload-adapters thead button:has-text('Adapter')")
    assert rows.first.inner_text().startswith("customer-0000")
    assert page.get_attribute("#workload-adapters thead th:first-child", "aria-sort") == "ascending"


def test_the_flags_of_a_gpu_are_copied(service, open_page):
    page, _ = open_page(service, permissions=["clipboard-read", "clipboard-write"])
    page.click("#fleet-plan [data-part=detail] button:has-text('Copy')")
    page.wait_for_selector("#fleet-plan [data-part=detail] button:has-text('Copied')")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("--enable-lora --max-loras ")


def test_an_empty_service_says_what_to_do_and_plans_the_example(empty_service, open_page):
    page, _ = open_page(empty_service)
    assert f"curl -X PUT {empty_service.client.base_url}/workload" in text_of(page, "#fleet-empty")
    page.click("#fleet-empty a[href='#plan']")
    page.click("#try-form button.main")
    assert "take the example" in text_of(page, "#try-error")
    page.click("#try-example")
    page.click("#try-form button.main")
    page.wait_for_selector("#try-plan:not([hidden])")
    assert "Adapters 192" in text_of(page, "#try-plan [data-part=tiles]")
    assert empty_service.client.get("/workloads").json()["workloads"] == []


def test_a_workload_file_is_planned_and_put_in_force_when_it_is_confirmed(service, open_page, tmp_path):
    workload = skewed_workload(60, base_model="qwen-2.5-7b-instruct")
    workload["adapters"] = workload["adapters"][:40]
    path = tmp_path / "workload.json"
    path.write_text(json.dumps(workload))
    before = service.client.get("/workload", params={"base_model": workload["base_model"]}).json()
    page, _ = open_page(service, "plan")
    page.set_input_files("#try-file", str(path))
    wait_until(lambda: page.input_value("#try-text"), timeout_s=PATIENCE_S, what="the file in the box")
    page.click("#try-form button.main")
    page.click("#try-put:not([disabled])")
    page.click("#confirm-no")
    assert service.client.get("/workload", params={"base_model": workload["base_model"]}).json() == before
    page.click("#try-put")
    page.click("#confirm-yes")
    page.wait_for_selector("#fleet:not([hidden])")
    wait_until(
        lambda: "Adapters 40" in text_of(page, "#fleet-plan [data-part=tiles]"),
        timeout_s=PATIENCE_S,
        what="the new fleet",
    )
    service.client.put("/workload", json=before).raise_for_status()


def test_what_is_refused_is_told_with_the_field(empty_service, open_page):
    page, witness = open_page(empty_service, "plan")
    page.fill("#try-text", "{oh no")
    page.click("#try-form button.main")
    assert "This is no JSON" in text_of(page, "#try-error")
    page.click("#try-example")
    wait_until(
        lambda: "adapter-191" in page.input_value("#try-text"), timeout_s=PATIENCE_S, what="the example"
    )
    page.fill("#try-text", page.input_value("#try-text").replace('"rank": 8', '"rank": 0', 1))
    page.click("#try-form button.main")
    wait_until(
        lambda: "adapters[0].rank" in text_of(page, "#try-error"),
        timeout_s=PATIENCE_S,
        what="the field's name",
    )
    witness.expect("status of 422")


def test_sliders_ask_what_a_change_would_come_to(service, open_page):
    page, _ = open_page(service, "plan")
    page.locator("#what-sliders input[name=rates]").focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    assert text_of(page, "#what-rates-out") == "\u00d7 2"
    wait_until(lambda: "+" in text_of(page, "#what-answer"), timeout_s=PATIENCE_S, what="more GPUs")
    assert re.search(r"Moves \d+", text_of(page, "#what-answer"))
    page.click("#what-form button[type=reset]")
    wait_until(lambda: not text_of(page, "#what-answer"), timeout_s=PATIENCE_S, what="the answer's end")
    assert text_of(page, "#what-rates-out") == "\u00d7 1"


def test_a_plan_that_was_tried_is_a_base_for_what_if_and_its_replay_is_followed(empty_service, open_page):
    page, _ = open_page(empty_service, "plan")
    page.click("#try-example")
    wait_until(lambda: page.input_value("#try-text"), timeout_s=PATIENCE_S, what="the example")
    page.click("#try-form button.main")
    page.wait_for_selector("#try-plan:not([hidden])")
    assert page.input_value("#what-from") == "tried"
    page.locator("#what-sliders input[name=adapters]").focus()
    page.keyboard.press("End")
    wait_until(lambda: "GPUs" in text_of(page, "#what-answer"), timeout_s=PATIENCE_S, what="an answer")
    page.click("#what-sweep")
    page.wait_for_selector("#what-chart canvas")
    wait_until(
        lambda: re.search("In the twin (verified|starved)", text_of(page, "#try-plan [data-part=tiles]")),
        timeout_s=PATIENCE_S,
        what="the twin's verdict",
    )


def test_plans_are_compared_by_moves_and_restarts(service, open_page):
    page, _ = open_page(service, "plan")
    page.select_option("#fleet-choice", "qwen-2.5-7b-instruct on h100-64gb")
    wait_until(
        lambda: "qwen" in page.text_content("#compare-from"), timeout_s=PATIENCE_S, what="the smaller fleet"
    )
    page.click("#try-current")
    page.fill("#try-risk", "0.01")
    page.click("#try-form button.main")
    page.wait_for_selector("#try-plan:not([hidden])")
    page.click("nav a[href='#compare']")
    page.click("#compare-form button.main")
    assert re.search(r"\d+ moves?, \d+ restarts?", text_of(page, "#compare-answer"))
    page.click("#compare-near")
    wait_until(
        lambda: "nearest to" in page.inner_text("#compare-to"), timeout_s=PATIENCE_S, what="the nearest plan"
    )
