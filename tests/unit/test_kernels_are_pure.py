"""Kernels are Numba on arrays and scalars: they import nothing that could do anything else."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KERNELS = sorted(path for path in ROOT.glob("*/kernels/*.py") if path.name != "__init__.py")
ALLOWED = {"__future__", "math", "numba", "numpy", "typing", "collections"}


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_there_are_kernels_to_check():
    assert {path.parts[-3] for path in KERNELS} >= {"twin", "models", "placer"}


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: f"{path.parts[-3]}.{path.stem}")
def test_a_kernel_imports_numpy_numba_and_other_kernels_only(path):
    foreign = [
        module
        for module in imported_modules(path)
        if module.split(".")[0] not in ALLOWED and module.split(".")[1:2] != ["kernels"]
    ]
    assert foreign == []
