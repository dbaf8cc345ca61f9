import re
from pathlib import Path

import pytest

from service.web.site import MEDIA_TYPES, WEB_DIR, load_site

STATIC = WEB_DIR / "static"
OWN_MODULES = sorted(STATIC.glob("*.js"))
MAX_LINES = 300


@pytest.fixture(scope="module")
def site():
    return load_site(version="1.2.3")


def loaded_by(page):
    return re.findall(r'(?:src|href)="(static/[^"]+)"', page)


def test_the_page_has_a_strict_policy_and_is_told_apart_by_its_tag(client):
    answer = client.get("/")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    again = client.get("/", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.head("/").status_code == 200


def test_the_page_has_nothing_inline_and_names_no_other_origin(client):
    page = client.get("/").text
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page)
    assert all(" src=" in script for script in re.findall(r"<script[^>]*>", page))
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page)


def test_every_file_of_the_page_is_served_for_ever_under_its_digest(client):
    paths = loaded_by(client.get("/").text)
    assert len(paths) >= 4
    for path in paths:
        answer = client.get(f"/{path}")
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    stale = re.sub(r"/[0-9a-f]{16}/", "/0123456789abcdef/", paths[0])
    assert client.get(f"/{stale}").status_code == 404
    for outside in ("..%2Fsite.py", "..%2f..%2fapp.py", "vendor/uplot/LICENSE", "%2Fetc%2Fpasswd"):
        assert client.get(f"/{paths[0].rsplit('/', 1)[0]}/{outside}").status_code == 404


def test_every_module_that_is_imported_is_there(site):
    for module in OWN_MODULES:
        for name in re.findall(r'from "\./([^"]+)"', module.read_text()):
            assert name in site.assets, f"{module.name} imports {name}"


@pytest.mark.parametrize("module", OWN_MODULES, ids=lambda path: path.name)
def test_a_module_of_the_page_is_short_and_makes_no_markup_of_text(module):
    text = module.read_text()
    assert len(text.splitlines()) < MAX_LINES
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
    )


def test_a_changed_file_changes_every_address(tmp_path, monkeypatch):
    before = load_site(version="1").digest
    for folder in ("static", "templates"):
        for path in (WEB_DIR / folder).rglob("*"):
            target = tmp_path / path.relative_to(WEB_DIR)
            if path.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    monkeypatch.setattr("service.web.site.WEB_DIR", tmp_path)
    assert load_site(version="2").digest == before
    (tmp_path / "static" / "dom.js").write_text("// other\n")
    assert load_site(version="1").digest != before


def test_only_files_that_the_page_loads_are_served(site):
    assert {Path(name).suffix for name in site.assets} == set(MEDIA_TYPES)
