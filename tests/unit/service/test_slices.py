"""Turns at a core, as Linux tells them of a process that has asked: asked in a process of its own."""

import platform
import subprocess
import sys

import pytest

from service.slices import SLICE_NS, interrupt_others

ASK = """
import ctypes, os, platform, threading
from service.slices import SCHED_ATTR, interrupt_others

def tell():
    number = {"x86_64": 315, "aarch64": 275}[platform.machine()]  # sched_getattr
    text = ctypes.create_string_buffer(SCHED_ATTR.size)
    assert ctypes.CDLL(None).syscall(number, 0, text, SCHED_ATTR.size, 0) == 0
    print(SCHED_ATTR.unpack(text.raw)[5], flush=True)

if interrupt_others():
    tell()
    thread = threading.Thread(target=tell)
    thread.start()
    thread.join()
    if os.fork() == 0:
        tell()
        os._exit(0)
    os.wait()
"""


def test_a_thread_that_asks_has_the_shortest_slice_and_what_it_starts_has_a_usual_one():
    told = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    if not told.stdout:
        pytest.skip("this system lets no thread choose its slice, or this process has a negative niceness")
    own, thread, fork = map(int, told.stdout.split())
    assert own == SLICE_NS
    assert thread == fork > own


@pytest.mark.parametrize(
    ("function", "told"), [("release", "6.11.0"), ("release", "unknown"), ("machine", "s390x")]
)
def test_a_system_that_cannot_is_left_alone(monkeypatch, function, told):
    monkeypatch.setattr(platform, function, lambda: told)
    assert not interrupt_others()
