from pathlib import Path

from service.app import create_app
from service.openapi import openapi_document, openapi_text
from service.settings import Settings

COMMITTED = Path(__file__).parents[2] / "openapi" / "openapi.json"


def test_the_committed_description_is_the_applications():
    assert COMMITTED.read_text(encoding="utf-8") == openapi_text(create_app(Settings())), "run `make openapi`"


def test_every_reference_resolves():
    document = openapi_document(create_app(Settings()))
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) <= known


def references(value):
    if isinstance(value, dict):
        for name, part in value.items():
            if name == "$ref":
                yield part
            else:
                yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)
