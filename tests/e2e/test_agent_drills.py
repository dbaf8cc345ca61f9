"""kill -9 of agent, server and service in the middle of a calibration: it ends, and leaves nothing behind."""

import csv
import json
import os
import signal
from contextlib import closing
from functools import partial

import pytest

from service.agent.link import Link, SpooledSink
from service.agent.local import SMALL_MODEL_NAME, calibrate_locally
from tests.support.agent_sets import KNOWN, points_of
from tests.support.agent_site import DONE_S, FAKE_ENGINE_VERSION, JOB, Site, fake_settings
from tests.support.real_vllm import AgentProcess
from tests.support.service_process import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(900)  # on a machine that does much else


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path, fake_settings)
    yield site
    site.close()


def rows(directory, table):
    with (directory / table).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_calibration_is_measured_and_leaves_nothing(site):
    directory = site.finished_set()
    site.check_that_nothing_is_left()
    site.check_that_no_point_was_measured_twice()
    launches = rows(directory, "memory_kv.csv")
    assert {row["error"] for row in launches} == {"", "kv_smaller_than_max_len"}
    started = [int(row["max_loras"]) for row in launches if row["kv_tokens"]]
    failed = [int(row["max_loras"]) for row in launches if row["error"]]
    assert max(started) + 1 == min(failed), "the memory border is bracketed"
    assert len(rows(directory, "runs.csv")) == 2
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["engine_version"] == FAKE_ENGINE_VERSION


def test_an_agent_killed_in_mid_calibration_leaves_nothing_and_goes_on_where_it_was(site):
    site.wait_for_points(4)
    site.agent.kill()
    site.check_that_nothing_is_left()
    site.agent.start()
    site.finished_set()
    site.check_that_nothing_is_left()
    site.check_that_no_point_was_measured_twice()


def test_a_server_killed_in_mid_calibration_is_started_again(site):
    site.wait_for_points(4)
    os.kill(site.server(), signal.SIGKILL)
    directory = site.finished_set()
    site.check_that_nothing_is_left()
    site.check_that_no_point_was_measured_twice()
    assert json.loads((directory / "manifest.json").read_text())["uncertain"] == []


def test_a_service_killed_in_mid_calibration_comes_back_and_gets_every_point(site):
    site.wait_for_points(4)
    site.service.kill()
    before = len(site.measured())
    site.wait_for_points(before + 2)
    site.service.start()
    directory = site.finished_set()
    site.check_that_no_point_was_measured_twice()
    kept = sum(len(rows(directory, table.name)) for table in directory.glob("*.csv"))
    assert kept == len(set(site.measured()))


def test_a_second_agent_of_the_same_home_is_refused(site):
    wait_until(site.servers, timeout_s=DONE_S, what="the first agent's server")
    other = AgentProcess(site.settings)
    other.log = site.settings.home.parent / "other.log"
    other.start()
    assert other.process.wait(DONE_S) == 2
    assert "in use by another agent" in other.log.read_text()


def test_an_agent_told_to_end_gives_its_task_back(site):
    site.wait_for_points(2)
    assert site.agent.stop() == 0
    site.check_that_nothing_is_left()
    assert site.asking.outcome(JOB).state == "waiting"
    site.agent.start()
    site.finished_set()
    site.check_that_no_point_was_measured_twice()


def test_points_measured_before_a_sigterm_while_the_service_was_away_reach_it_or_stay_on_disk(tmp_path):
    gate = tmp_path / "gate"
    never_starts = f"sh -c 'until [ -e {gate} ]; do sleep 0.1; done; exit 1'"
    settings_of = partial(fake_settings, command=never_starts)
    point = next(points_of(KNOWN))
    nowhere = settings_of(tmp_path, url=f"http://127.0.0.1:{free_port()}")
    with closing(Link(nowhere)) as link:
        SpooledSink(link, JOB, nowhere.home / "spool").add(point)
    site = Site(tmp_path, settings_of)
    try:
        wait_until(site.servers, timeout_s=60, what="a launch")
        site.agent.process.terminate()
        gate.touch()
        assert site.agent.process.wait(60) == 0
        assert site.asking.outcome(JOB).state == "waiting"
        with closing(Link(site.settings)) as link:
            told_or_on_disk = SpooledSink(link, JOB, site.settings.home / "spool").known()
        assert told_or_on_disk == {point.key: point}
    finally:
        site.close()


def test_a_calibration_by_hand_says_what_its_budget_left_out_and_goes_on_when_called_again(tmp_path):
    out = tmp_path / "set"
    nothing = calibrate_locally(fake_settings(tmp_path, budget_minutes=0.001), SMALL_MODEL_NAME, out)
    assert nothing.num_measured == 0
    assert any("the time was up" in line for line in nothing.uncertain)
    first = calibrate_locally(fake_settings(tmp_path), SMALL_MODEL_NAME, out)
    assert first.uncertain == ()
    again = calibrate_locally(fake_settings(tmp_path), SMALL_MODEL_NAME, out)
    assert (again.num_measured, again.num_known) == (0, first.num_measured)
    assert sorted(path.name for path in out.glob("*.csv")) == [
        "load_times.csv",
        "memory_kv.csv",
        "runs.csv",
        "step_points.csv",
    ]
