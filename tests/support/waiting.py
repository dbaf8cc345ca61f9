"""Waiting for something another process does: polled, with a deadline, never a blind sleep."""

import time

import pytest

POLL_S = 0.02


def wait_until(condition, *, timeout_s, what):
    """Return the first true value of `condition()`; fail the test after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen within {timeout_s} s")
        time.sleep(POLL_S)
    return value
