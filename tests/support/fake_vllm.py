"""A server that answers like vLLM, as fast as asked: for what an agent does, not for what vLLM is.

Run as a script with vLLM's flags. It schedules requests in steps under ``--max-loras``, counts as vLLM's
metrics do, and starts a process of its own in another session, as engines do.
"""

import argparse
import asyncio
import subprocess
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

STEP_S = 0.002
KV_BYTES_A_TOKEN = 1024
BLOCK = 16

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
parser.add_argument("--max-loras", type=int)
parser.add_argument("--kv-bytes", type=int)
parser.add_argument("--max-model-len", type=int, default=512)
options = parser.parse_args()

running, waiting = [], []
names = set()
counts = dict.fromkeys(
    ("steps", "tokens", "prompts", "generated", "started", "finished", "ttft", "gaps", "gap_s"), 0.0
)


class Sequence:
    def __init__(self, model, prompt, wanted):
        self.model, self.prompt, self.wanted = model, prompt, wanted
        self.made, self.gone = 0, False
        self.out = asyncio.Queue()


def admit():
    for sequence in list(waiting):
        in_batch = {one.model for one in running}
        if sequence.gone or sequence.model in in_batch or len(in_batch) < options.max_loras:
            waiting.remove(sequence)
            if not sequence.gone:
                running.append(sequence)


async def engine():
    while True:
        admit()
        await asyncio.sleep(STEP_S)
        if not running:
            continue
        counts["steps"] += 1
        counts["gap_s"] += STEP_S
        counts["gaps"] += 1
        for sequence in list(running):
            if not sequence.made:
                counts["prompts"] += sequence.prompt
                counts["started"] += 1
            sequence.made += 1
            counts["generated"] += 1
            sequence.out.put_nowait(sequence.made)
            if sequence.gone or sequence.made >= sequence.wanted:
                running.remove(sequence)
                counts["finished"] += 1
                sequence.out.put_nowait(None)


async def complete(request: Request):
    body = await request.json()
    if body["model"] not in names:
        return JSONResponse({"error": {"message": "no such model"}}, 404)
    sequence = Sequence(body["model"], len(body["prompt"]), body["max_tokens"])
    waiting.append(sequence)

    async def chunks():
        try:
            while await sequence.out.get() is not None:
                yield b'data: {"choices": [{"text": "w"}]}\n\n'
            yield b"data: [DONE]\n\n"
        finally:
            sequence.gone = True

    return StreamingResponse(chunks(), media_type="text/event-stream")


async def load(request: Request):
    names.add((await request.json())["lora_name"])
    return PlainTextResponse("ok")


async def metrics(_: Request):
    c = counts
    return PlainTextResponse(
        f"vllm:num_requests_running {len(running)}\nvllm:num_requests_waiting {len(waiting)}\n"
        f"vllm:iteration_tokens_total_count {c['steps']}\nvllm:prompt_tokens_total {c['prompts']}\n"
        f"vllm:generation_tokens_total {c['generated']}\nvllm:request_success_total {c['finished']}\n"
        f"vllm:time_to_first_token_seconds_count {c['started']}\nvllm:time_to_first_token_seconds_sum 0\n"
        f"vllm:inter_token_latency_seconds_count {c['gaps']}\n"
        f"vllm:inter_token_latency_seconds_sum {c['gap_s']}\n"
        f'vllm:cache_config_info{{block_size="{BLOCK}",num_gpu_blocks="{blocks}"}} 1\n'
    )


async def models(_: Request):
    return JSONResponse({"data": [{"id": name, "parent": "base"} for name in sorted(names)]})


async def ok(_: Request):
    return PlainTextResponse("")


async def version(_: Request):
    return JSONResponse({"version": "0.0.1"})


async def main():
    task = asyncio.create_task(engine())
    routes = [
        Route("/health", ok),
        Route("/version", version),
        Route("/metrics", metrics),
        Route("/v1/models", models),
        Route("/v1/completions", complete, methods=["POST"]),
        Route("/v1/load_lora_adapter", load, methods=["POST"]),
    ]
    config = uvicorn.Config(Starlette(routes=routes), port=options.port, log_level="error")
    await uvicorn.Server(config).serve()
    task.cancel()


blocks = options.kv_bytes // (KV_BYTES_A_TOKEN * BLOCK)
if blocks <= 0:
    sys.exit("ValueError: No available memory for the cache blocks.")
if blocks * BLOCK < options.max_model_len:
    sys.exit(
        "the model's max seq len is larger than the maximum number of tokens that can be stored in KV cache"
    )
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)
asyncio.run(main())
