"""Workloads as a page shows them: few busy adapters, many quiet ones."""

import random


def skewed_workload(num_adapters, base_model="llama-3.1-8b-instruct"):
    dice = random.Random(num_adapters)
    adapters = [
        {
            "id": f"customer-{number:04d}",
            "rank": dice.choice([8, 8, 8, 16, 16, 32]),
            "rate_rps": round(0.02 + 0.015 * dice.paretovariate(1.3), 4),
            "input_tokens_mean": dice.randint(120, 420),
            "output_tokens_mean": dice.randint(80, 320),
        }
        for number in range(num_adapters)
    ]
    return {"base_model": base_model, "gpu_type": "h100-64gb", "adapters": adapters}
