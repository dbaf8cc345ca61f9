import subprocess
import sys

HEAVY = ("sklearn", "pyarrow", "matplotlib", "threadpoolctl")  # scipy comes with Numba


def test_a_process_that_predicts_loads_neither_scikit_learn_nor_pyarrow():
    code = (
        "import sys, models.artifact, models.surrogate, models.evaluation, models.bench, models.pipeline\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
