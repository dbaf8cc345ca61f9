"""The table of invariants names tests that exist."""

import re
from pathlib import Path

HERE = Path(__file__).parent
README = HERE.parents[2] / "twin" / "README.md"


def test_every_test_that_the_readme_names_exists():
    named = set(re.findall(r"`(test_\w+)(?:\.py)?`", README.read_text(encoding="utf-8")))
    sources = list(HERE.glob("test_*.py"))
    written = {path.stem for path in sources}
    for path in sources:
        written |= set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert len(named) > 30
    assert named <= written
