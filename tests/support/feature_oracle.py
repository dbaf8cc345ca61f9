"""The features of one GPU, straight from the workload's rows by the formulas of `models.features`.

Plain Python, no aggregates: adapters are summed over each time a formula asks for them, the expected
active adapters come from the exact sum, the batch from bisection.
"""

import math
from dataclasses import replace

from models.kernels.features import DEFAULT_INPUT_CV, DEFAULT_OUTPUT_CV, SHAREGPT_MEAN_PRODUCT
from twin.domain import ServerConfig
from twin.kernels.latency import GRAPH_TOKENS, scheduler_us, step_ms
from twin.latency import scheduler_coefficients, step_coefficients
from twin.memory import kv_tokens

SHAREGPT_CV = (DEFAULT_INPUT_CV, DEFAULT_OUTPUT_CV)


class Oracle:
    def __init__(self, workload, calibration, max_loras, max_lora_rank, horizon_s=3600.0):
        self.flags = ServerConfig(max_loras=max_loras, max_lora_rank=max_lora_rank)
        self.calibration = calibration
        self.horizon_s = horizon_s
        self.rows = [
            (
                int(workload.rank[i]),
                float(workload.rate_rps[i]),
                float(workload.input_tokens_mean[i]),
                float(workload.output_tokens_mean[i]),
                float(workload.input_tokens_cv[i]),
                float(workload.output_tokens_cv[i]),
                float(workload.arrival_cv[i]),
            )
            for i in range(workload.num_adapters)
        ]
        self.rate = sum(rate for _, rate, *_ in self.rows)
        self.work = sum(rate * out for _, rate, _, out, *_ in self.rows)
        self.prompt = sum(rate * inp for _, rate, inp, *_ in self.rows)

    def active(self, tau_s):
        return sum(-math.expm1(-rate * out * tau_s) for _, rate, _, out, *_ in self.rows)

    def hot(self, tau_s):
        return sum(math.expm1(-rate * out * tau_s / 4) ** 2 for _, rate, _, out, *_ in self.rows)

    def moments(self):
        """Return E[in] and E[out] of the request that a running token belongs to."""
        product, square = 0.0, 0.0
        for _, rate, inp, out, cv_in, cv_out, _ in self.rows:
            joint = SHAREGPT_MEAN_PRODUCT if math.isnan(cv_in) and math.isnan(cv_out) else 1.0
            cv = SHAREGPT_CV[1] if math.isnan(cv_out) else cv_out
            product += rate * inp * out * joint
            square += rate * out * out * (1 + cv * cv)
        return product / self.work, square / self.work

    def stuck(self, tau_s):
        return sum(math.expm1(-rate * out * tau_s / 4) ** 4 for _, rate, _, out, *_ in self.rows)

    def served_by_slots(self, tau_s, batch, step_ms):
        """Return what slots let through, and the adapters that never yield one."""
        slots, active = self.flags.max_loras, self.active(tau_s)
        if self.active(1e-3 * step_ms) <= slots:
            return 1.0, max(self.stuck(tau_s), 0.05 * active)
        share = min(slots / active, 1)
        served = batch * share
        for _ in range(2):
            tau_s = 1e-3 * self.step(max(served, 1e-6), slots)
            served = min(share * self.work * tau_s, batch)
        active = self.active(tau_s)
        stuck = max(self.stuck(tau_s), 1e-9)
        others = (self.active(tau_s / 4) - self.active(tau_s / 8)) / (tau_s / 8) / self.work
        turns = min(max(slots - stuck, 0) / max(0.2 * (active - stuck), 1e-9), 1)
        let = min(slots / stuck, 1) * (1 - others) + others * turns
        return let, max(stuck, 0.05 * active)

    def step(self, batch, seen=None):
        active = self.active(batch / self.work)
        if seen is None:
            seen = min(active + 1 - active / len(self.rows), self.flags.max_loras)
        running = batch + 1
        in_when_running, out_when_running = self.moments()
        context = in_when_running + out_when_running / 2 + self.flags.block_size / 2
        model_ms = step_ms(
            step_coefficients(replace(self.calibration.step, eager_ms=0.0)),
            running,
            running * self.prompt / self.work,
            running * context,
            seen,
            self.flags.max_lora_rank,
            self.flags.max_loras,
        )
        eager_share = running * (1 + self.prompt / self.work) / GRAPH_TOKENS - 0.5
        model_ms += self.calibration.step.eager_ms * min(max(eager_share, 0.0), 1.0)
        return model_ms + 1e-3 * scheduler_us(
            scheduler_coefficients(self.calibration.scheduler), running, 0.0
        )

    def features(self, batch=None):
        """Return every feature; at a given batch where one is given, else at that of Little's law."""
        flags = self.flags
        in_when_running, out_when_running = self.moments()
        context = in_when_running + out_when_running / 2 + flags.block_size / 2
        kv_requests = max(kv_tokens(self.calibration, flags.max_loras, flags.max_lora_rank) / context, 1.0)
        budget_requests = flags.max_num_batched_tokens / (1 + self.prompt / self.work)
        max_batch = max(min(kv_requests, budget_requests, flags.max_num_seqs), 1.0)
        step_full = self.step(max(max_batch - 1, 1e-6))
        rho = 1e-3 * self.work * step_full / max_batch
        if batch is None:
            batch = self._batch(max_batch, rho)
        step = step_full if rho >= 1 else 1e3 * batch / self.work
        wanted = max(batch, rho * max_batch)
        tau = batch / self.work
        residence = batch * (in_when_running + out_when_running) / self.horizon_s / (self.work + self.prompt)
        saturation = min(1.0, 1.0 / rho)
        misses = max(1 - flags.max_loras / len(self.rows), 0.0)
        begun = (self.active(tau) - self.active(tau / 2)) / (tau / 2) * self.rate / self.work
        taken = min(max(4 * self.active(tau) / flags.max_loras - 3, 0.0), 1.0)
        slots_let, stuck = self.served_by_slots(tau, batch, step)
        queue = 0.5 * self.rate * self.horizon_s * (1 - saturation)
        out_mean = self.work / self.rate
        out_square = sum(
            rate * out * out * (1 + (SHAREGPT_CV[1] if math.isnan(cv) else cv) ** 2)
            for _, rate, _, out, _, cv, _ in self.rows
        )
        tokens = [rate * (inp + out) for _, rate, inp, out, *_ in self.rows]
        return {
            "rho": rho,
            "served_by_formula": max(min(saturation - residence, slots_let), 0.01),
            "slots_over_active": flags.max_loras / self.active(tau),
            "slots_over_hot": flags.max_loras / max(self.hot(tau), 1e-9),
            "slots_over_stuck": flags.max_loras / stuck,
            "served_by_slots": slots_let,
            "slots_over_count": flags.max_loras / len(self.rows),
            "kv_pressure": wanted / kv_requests,
            "budget_pressure": wanted / budget_requests,
            "seqs_pressure": wanted / flags.max_num_seqs,
            "batch": batch,
            "step_ms": step,
            "kv_requests": kv_requests,
            "residence_share": residence,
            "load_share": 1e-3
            * self.calibration.load.cpu_ms
            * misses
            * begun
            * (1 + taken * flags.max_loras / 6),
            "scan_share": 1e-3 * self.calibration.scheduler.scanned_us * queue / step,
            "input_tokens": self.prompt / self.rate,
            "output_tokens": out_mean,
            "context_tokens": context,
            "output_cv": math.sqrt(max(out_square / self.rate / out_mean**2 - 1, 0.0)),
            "rate_sum": self.rate,
            "rate_evenness": self.rate**2 / sum(rate**2 for _, rate, *_ in self.rows),
            "tokens_evenness": sum(tokens) ** 2 / sum(value**2 for value in tokens),
            "max_rate_share": max(rate for _, rate, *_ in self.rows) / self.rate,
            "arrival_cv": math.sqrt(sum(row[1] * row[6] ** 2 for row in self.rows) / self.rate),
            "num_adapters": len(self.rows),
            "max_loras": flags.max_loras,
            "max_lora_rank": flags.max_lora_rank,
            "rank_fill": sum(row[0] for row in self.rows) / len(self.rows) / flags.max_lora_rank,
        }

    def _batch(self, max_batch, rho):
        """Return the batch where B = work x step(B), found by bisection."""
        low, high = 0.0, max_batch
        if rho >= 1:
            return max_batch
        for _ in range(200):
            middle = (low + high) / 2
            if 1e-3 * self.work * self.step(max(middle, 1e-12)) > middle:
                low = middle
            else:
                high = middle
        return low
