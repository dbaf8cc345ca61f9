"""Keyboard, screen readers, light and dark."""

import pytest

axe_core = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
VIEWS = ("fleet", "workload", "plan", "compare", "models", "jobs", "hosts")
COLOURS = "() => { const of = getComputedStyle(document.body); return [of.color, of.backgroundColor]; }"
NOT_REACHED = """
() => [...document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex="0"]')]
  .filter((control) => control.checkVisibility({visibilityProperty: true}) && !control.disabled)
  .filter((control) => !control.dataset.reached)
  .map((control) => control.outerHTML.slice(0, 120))
"""


@pytest.mark.parametrize(
    ("view", "scheme"), [*((view, "light") for view in VIEWS), ("fleet", "dark"), ("plan", "dark")]
)
def test_axe_finds_nothing_to_mend(service, open_page, view, scheme):
    page, _ = open_page(service, view, color_scheme=scheme)
    page.wait_for_selector(f"#{view}:not([hidden])")
    found = axe_core.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("view", VIEWS)
def test_the_keyboard_reaches_every_control(service, open_page, view):
    page, _ = open_page(service, view)
    page.wait_for_selector(f"#{view}:not([hidden])")
    for _ in range(len(page.evaluate(NOT_REACHED)) + 5):
        page.keyboard.press("Tab")
        page.evaluate("document.activeElement.dataset.reached = true")
    assert page.evaluate(NOT_REACHED) == []


def test_the_first_tab_leads_past_the_navigation(service, open_page):
    page, _ = open_page(service, view="")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_light_and_dark_follow_the_reader(service, open_page):
    page, _ = open_page(service, color_scheme="light")
    light = page.evaluate(COLOURS)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(COLOURS) != light
