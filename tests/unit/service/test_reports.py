"""Reports as single HTML files."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from service.cli import run_command_line
from service.drill.variants import changed
from service.reports.plan import plan_report
from service.reports.validation import TREE, TWIN, validation_report
from service.schemas.plan import PlanSchema
from tests.support.measured_tables import RUN, write_table
from tests.support.plans import plan_document
from tests.support.workload_documents import LLAMA_CALIBRATION
from twin.calibration import calibration_to_json
from twin.measured import read_runs
from twin.scatter import scatter
from twin.validate import Prediction


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


@pytest.fixture
def predicted(tmp_path):
    """Three measured runs and what was said of each: right, a tenth off, and far off."""
    rows = [
        RUN | {"run_id": f"<{number}>", "tot_tok_s": tok_s} for number, tok_s in enumerate((250, 200, 90))
    ]
    runs = read_runs(write_table(tmp_path / "runs.csv", rows))
    return [
        Prediction(
            run=run,
            fits=True,
            throughput_tok_s=tok_s,
            itl_ms=20.0,
            ttft_ms=50.0,
            ttft_incl_unfinished_ms=900.0,
            binding_constraint="slots",
        )
        for run, tok_s in zip(runs, (250.0, 215.0, 180.0), strict=True)
    ]


def rows_of(page, first_cell):
    lines = page.text.splitlines()
    return lines[lines.index(first_cell) :]


def test_a_validation_s_report_sets_twin_tree_and_baseline_beside_each_other(predicted):
    tree = [replace(row, throughput_tok_s=250.0) for row in predicted]
    page = Page(validation_report({TWIN: predicted, TREE: tree}, "loadmaster report validation"))
    within = [cell for cell in rows_of(page, "throughput within 10 %, share of runs") if cell.strip()]
    assert within[1:3] == ["0.667", "0.333"]
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
    worst = rows_of(page, "llama-3.1-8b-instruct: predicted worst")
    named = [line for line in worst if line.startswith("<")]
    assert named == ["<2>", "<1>", "<0>"]
    assert "script" not in page.tags


def test_a_figure_draws_each_run_that_ended_for_each_predictor(predicted):
    unfinished = replace(predicted[0], throughput_tok_s=None)
    figure = scatter("a model", {TWIN: [*predicted, unfinished], TREE: predicted[:1]})
    drawn = [
        sum(len(line.get_xdata()) for line in axes.lines if line.get_linestyle() == "None")
        for axes in figure.axes
    ]
    assert drawn == [3, 3, 3, 1, 1, 1]


@pytest.mark.parametrize("changes", [{"throughput_tok_s": None}, {"itl_ms": None}])
def test_a_validation_s_report_is_written_of_runs_that_lack_figures(predicted, changes):
    lacking = [replace(row, **changes) for row in predicted]
    assert "one-line baseline" in Page(validation_report({TWIN: lacking}, "made here")).text


def test_a_surrogate_is_compared_where_it_is_of_the_twin_s_calibration_else_named_and_left_out(
    tmp_path, capsys
):
    runs = write_table(tmp_path / "runs.csv", [RUN | {"duration_s": "60"}])
    other, _ = changed(LLAMA_CALIBRATION, 1)
    (tmp_path / "other.json").write_text(calibration_to_json(other))
    out = tmp_path / "report.html"
    for given, title in (LLAMA_CALIBRATION, "Twin and tree"), (str(tmp_path / "other.json"), "Twin"):
        arguments = ["--runs", str(runs), "--calibration", given, "--out", str(out)]
        assert run_command_line(["report", "validation", *arguments]) == 0
        assert f"{title} against measured runs" in Page(out.read_text()).text
        assert ("no surrogate of" in capsys.readouterr().err) is (title == "Twin")
