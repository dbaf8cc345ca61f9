"""What an agent would send of a live server that does what the twin says, or nearly."""

from service.services.drift import LiveSample, predicted
from twin.calibration import load_calibration

LLAMA_CALIBRATION = "h100-64gb/llama-3.1-8b-instruct/vllm-0.8.5"
LOAD = {
    "calibration_id": LLAMA_CALIBRATION,
    "duration_s": 60.0,
    "max_loras": 32,
    "max_lora_rank": 16,
    "adapters": 32,
    "rate_rps": 3.2,
    "input_tokens_mean": 223.0,
    "output_tokens_mean": 197.0,
    "num_requests": 192,
}


def as_predicted(**changes):
    """A sample of the server that the twin foretells, but for some changes."""
    quiet = {"running": 0.0, "waiting": 0.0, "itl_ms": None, "tot_tok_s": 0.0}
    report = predicted(LiveSample(**LOAD, **quiet), load_calibration(LLAMA_CALIBRATION))
    seen = {
        "running": report.mean_num_requests_running,
        "waiting": report.mean_num_requests_waiting,
        "itl_ms": report.itl.mean_ms,
        "tot_tok_s": report.throughput_tok_s,
    }
    return LOAD | seen | changes
