"""What each command's help shows besides its options: lines to copy.

Every command and group has some; a test parses each line with the command's own options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import typer

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "": (
        "loadmaster serve",
        "loadmaster workload import adapters/ access.log > w.json",
        "loadmaster place --workload w.json --json > plan.json",
        "loadmaster plan export plan.json --format vllm > fleet.sh",
    ),
    "serve": (
        "loadmaster serve",
        "loadmaster serve --host 0.0.0.0 --port 8080 --data-dir /var/lib/loadmaster --processes 4",
        "LOADMASTER_REDIS_URL=redis://valkey:6379 loadmaster serve",
    ),
    "worker": ("LOADMASTER_REDIS_URL=redis://valkey:6379 loadmaster worker --queues twin --concurrency 8",),
    "agent": (
        "LOADMASTER_AGENT_KEY=lm_… loadmaster agent --url http://loadmaster:8080",
        "loadmaster agent calibrate --base-model llama-3.1-8b-instruct --out set/ --dry-run",
    ),
    "agent calibrate": (
        "loadmaster agent calibrate --base-model llama-3.1-8b-instruct --out set/ --dry-run",
        "loadmaster agent calibrate --base-model llama-3.1-8b-instruct --out set/ --budget-minutes 240",
    ),
    "place": (
        "loadmaster place --workload w.json",
        "loadmaster place --workload w.json --url http://loadmaster:8080 --json > plan.json",
    ),
    "re-place": ("loadmaster re-place --workload running.json --json > delta.json",),
    "what-if": (
        "loadmaster what-if --workload w.json --scale-rates 1.5 --scale-rates 2 --lose-gpus 1",
        "loadmaster what-if --url http://loadmaster:8080 --add-adapters new.json",
    ),
    "gpus-needed": (
        "loadmaster gpus-needed --url http://loadmaster:8080",
        "loadmaster gpus-needed --base-model llama-3.1-8b-instruct --gpu-type h100-64gb --json",
    ),
    "simulate": (
        "loadmaster simulate --workload w.json --max-loras 32",
        "loadmaster simulate --workload w.json --max-loras 32 --trace requests.csv --json",
        "loadmaster simulate --workload w.json --max-loras 32 --draws 20",
    ),
    "validate": (
        "loadmaster validate --runs runs.csv --report validation.md",
        "loadmaster validate --runs runs.csv --calibration mine.json --json",
    ),
    "simulate-paged": ("loadmaster simulate-paged --workload w.json --max-total-token-num 14000",),
    "validate-paged": ("loadmaster validate-paged --runs runs.csv --leave-one-rate-out --json",),
    "keys": (
        "loadmaster keys create autoscaler --scope place --expires-days 365",
        "loadmaster keys list",
        "loadmaster keys revoke 3f9c2a7b",
    ),
    "keys create": (
        "loadmaster keys create autoscaler --scope place --expires-days 365",
        "loadmaster keys create gpu-7 --scope agent",
    ),
    "keys list": (
        "loadmaster keys list",
        "LOADMASTER_DATA_DIR=/var/lib/loadmaster loadmaster keys list --json",
    ),
    "keys revoke": ("loadmaster keys revoke 3f9c2a7b",),
    "workload": ("loadmaster workload import adapters/ access.log > w.json",),
    "workload import": (
        "loadmaster workload import adapters/ access.log > w.json",
        "loadmaster workload import adapters/ http://prom:9090 --window-s 86400 --quantile 0.95 > w.json",
        "loadmaster workload import fleet.csv --column rank=lora_r --base-model llama-3.1-8b-instruct",
        "loadmaster workload import trace:azure.csv --adapter-column model adapters/",
    ),
    "plan": ("loadmaster plan export plan.json --format vllm > fleet.sh",),
    "plan export": (
        "loadmaster place --workload w.json --json > plan.json",
        "loadmaster plan export plan.json --format vllm > fleet.sh && sh fleet.sh 0",
        (
            "loadmaster plan export --url http://127.0.0.1:8080 --format kubernetes --namespace llm "
            "| kubectl apply -f -"
        ),
        "loadmaster plan export plan.json --format litellm --address http://127.0.0.1:{port} > config.yaml",
    ),
    "surrogates": ("loadmaster surrogates list", "loadmaster surrogates activate 041f1c9b1e68"),
    "surrogates list": ("loadmaster surrogates list --json",),
    "surrogates activate": ("loadmaster surrogates activate 041f1c9b1e68",),
    "surrogates roll-back": ("loadmaster surrogates roll-back h100-64gb/llama-3.1-8b-instruct/vllm-0.8.5",),
    "report": ("loadmaster report plan plan.json --out plan.html",),
    "report plan": (
        (
            "loadmaster place --workload w.json --json > plan.json && "
            "loadmaster report plan plan.json --out plan.html"
        ),
    ),
    "report validation": ("loadmaster report validation --runs runs.csv --out validation.html",),
    "calibrate": ("loadmaster calibrate fit --measurements set/ --out calibration.json",),
    "calibrate fit": (
        "loadmaster calibrate fit --measurements set/ --out calibration.json",
        "loadmaster calibrate fit --measurements tables/ --model llama-3.1-8b-instruct --out calibrations/",
    ),
    "calibrate report": (
        "loadmaster calibrate report --measurements set/ --calibration calibration.json --out set.md",
    ),
    "calibrate cross-validate": ("loadmaster calibrate cross-validate --measurements tables/ --json",),
    "calibrate fit-paged": ("loadmaster calibrate fit-paged --measurements slora/ --out slora.json",),
    "dataset": ("loadmaster dataset info dataset.parquet",),
    "dataset generate": (
        "loadmaster dataset generate --calibration calibration.json --out dataset.parquet --rows 16000",
    ),
    "dataset info": (
        "loadmaster dataset info dataset.parquet",
        "loadmaster dataset info s3://bucket/dataset.parquet --json",
    ),
    "jobs": ("loadmaster jobs list --state failed", "loadmaster jobs dead-letters"),
    "jobs list": ("loadmaster jobs list --state failed --limit 20",),
    "jobs dead-letters": ("loadmaster jobs dead-letters --json",),
    "jobs retry": ("loadmaster jobs retry 5d1c0e7a9f42",),
    "jobs cancel": ("loadmaster jobs cancel 5d1c0e7a9f42",),
    "recalibrate": (
        "loadmaster recalibrate --measurements set/ --wait",
        "loadmaster recalibrate --base-model llama-3.1-8b-instruct --gpu-type h100-64gb --rows 4000 --wait",
        "loadmaster recalibrate --refresh --wait",
    ),
    "train": (
        "loadmaster train --dataset dataset.parquet --out surrogate/",
        "loadmaster train --dataset dataset.parquet --out surrogate/ --report surrogate.md --workers 8",
    ),
    "evaluate": (
        "loadmaster evaluate --runs runs.csv",
        "loadmaster evaluate --dataset fresh.parquet --surrogate surrogate/ --json",
    ),
    "simulate-scaling": (
        "loadmaster simulate-scaling --trace azure.csv --adapters 300 --peak-rps 200 --json",
    ),
    "bench": (
        "loadmaster bench place --family all --seed 0 --json > seed-0.json",
        "loadmaster bench http --url http://loadmaster:8080",
        "loadmaster bench http --processes 8 --json > processes.json",
    ),
    "drill": ("loadmaster drill faults --load-s 10", "loadmaster drill hostile --requests 2000 --json"),
    "doctor": (
        "loadmaster doctor",
        "LOADMASTER_REDIS_URL=redis://valkey:6379 loadmaster doctor --json",
    ),
    "place-table": ("loadmaster place-table seed-0.json seed-1.json",),
    "openapi": ("loadmaster openapi --output openapi.json",),
}
"""Lines by the words of their command; the empty one is `loadmaster` itself."""


def show_examples(app: typer.Typer, words: str = "") -> None:
    """Give the help of a command group, and of all that is in it, its examples."""
    for command in app.registered_commands:
        assert command.callback is not None, "a command is a function"
        name = command.name or command.callback.__name__.replace("_", "-")
        command.epilog = _shown(f"{words} {name}".strip())
    for group in app.registered_groups:
        assert group.typer_instance is not None, "a group has commands"
        name = f"{words} {group.typer_instance.info.name}".strip()
        group.epilog = _shown(name)
        show_examples(group.typer_instance, name)
    if not words:
        app.info.epilog = _shown("")


def _shown(words: str) -> str | None:
    """Return examples as paragraphs: one line each, however the help wraps them; None without any."""
    lines = EXAMPLES.get(words)
    return None if lines is None else "\n\n".join(["Examples:", *lines])
