"""A drill's waiting: it outlasts a service that is away, and ends."""

import httpx
import pytest

from service.drill.waiting import wait_for
from service.errors import UsageError


def test_a_service_that_does_not_answer_is_asked_again_until_it_does():
    answers = iter([httpx.ConnectError("away"), KeyError("a problem"), 0, "there"])

    def ask():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert wait_for(ask, "the service", deadline_s=60) == "there"


def test_what_never_comes_ends_the_wait_by_its_name():
    with pytest.raises(UsageError, match="the key did not come within 0 s"):
        wait_for(lambda: False, "the key", deadline_s=0)
