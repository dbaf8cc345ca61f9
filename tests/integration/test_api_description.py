"""Whatever the description allows or forbids, answers are as described; 503 only with Retry-After."""

import pytest
from hypothesis import HealthCheck, Phase, settings

from service.app import create_app
from service.openapi import openapi_document
from service.settings import Settings

WHY = "schemathesis is not installed: make setup"
schemathesis = pytest.importorskip("schemathesis", reason=WHY)
described = pytest.importorskip("schemathesis.specs.openapi.checks", reason=WHY)
NO_5XX = pytest.importorskip("schemathesis.checks", reason=WHY).not_a_server_error

AS_DESCRIBED = [
    described.status_code_conformance,
    described.content_type_conformance,
    described.response_headers_conformance,
    described.response_schema_conformance,
    described.unsupported_method,
]
schema = schemathesis.openapi.from_dict(openapi_document(create_app(Settings())))


@schema.parametrize()
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_an_answer_is_as_described(case, client):
    answer = case.call(base_url=str(client.base_url))
    may_pass = answer.status_code == 503 and "retry-after" in answer.headers
    case.validate_response(answer, checks=AS_DESCRIBED if may_pass else [NO_5XX, *AS_DESCRIBED])
