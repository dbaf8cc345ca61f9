"""Reports as single HTML files."""

import base64
import re
from html.parser import HTMLParser

from service.reports.plan import plan_report
from service.schemas import PlanSchema
from tests.support.plans import plan_document


class Page(HTMLParser):
    """What a report holds: its tags, the addresses it names, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.addresses, self.text = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in {"src", "href"}]

    def handle_data(self, data):
        self.text += f"{data}\n"


def report(*adapters_of_gpu, **changes):
    return plan_report(PlanSchema.model_validate(plan_document(*adapters_of_gpu, **changes)))


def test_a_plan_s_report_names_every_gpu_and_adapter_and_fetches_nothing():
    page = Page(report(["a", "b"], ["c"]))
    assert {"a", "b", "c"} <= set(re.findall(r"\w+", page.text))
    assert page.addresses
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
    assert "script" not in page.tags


def test_an_adapter_s_name_is_text_whatever_it_holds():
    hostile = "<script>alert(1)</script>"
    page = Page(report([hostile], unplaced=[{"adapter": hostile, "code": "memory", "reason": hostile}]))
    assert "script" not in page.tags
    assert page.text.count(hostile) == 3


def test_the_picture_is_svg_and_the_same_each_time():
    first, second = (Page(report(["a"], ["b"])).addresses[0] for _ in range(2))
    drawn = base64.b64decode(first.split(",", 1)[1])
    assert b"<svg" in drawn
    assert first == second


def test_a_plan_without_gpus_says_what_was_not_placed():
    page = Page(report(unplaced=[{"adapter": "a", "code": "overload", "reason": "too much"}]))
    assert "too much" in page.text
    assert page.addresses == []
