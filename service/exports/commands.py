"""A plan as a shell script: ``sh fleet.sh 3`` becomes the server of GPU 3."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import orjson

from service.exports.fleet import PORT, Exported

if TYPE_CHECKING:
    from service.exports.fleet import Fleet, ServedAdapter, Server

SCRIPT = """#!/bin/sh
# The servers of plan {plan_id}. `sh {script} GPU` becomes one of them: {gpus}.
# CUDA_VISIBLE_DEVICES and PORT may be set; else they are the GPU's number and {port} + that number.
set -eu
gpu="${{1:?give the number of a GPU}}"
export CUDA_VISIBLE_DEVICES="${{CUDA_VISIBLE_DEVICES:-$gpu}}"
port="${{PORT:-$(({port} + gpu))}}"
case "$gpu" in
{cases}
*) echo "the plan has no GPU $gpu" >&2; exit 2 ;;
esac
"""


def shell_script(fleet: Fleet) -> Exported:
    """Return the command line of each server, as one script for sh."""
    text = SCRIPT.format(
        plan_id=fleet.plan_id,
        script="fleet.sh",
        gpus=" ".join(str(server.gpu) for server in fleet.servers),
        port=PORT,
        cases="\n".join(_case(fleet, server) for server in fleet.servers),
    )
    return Exported(text=text)


def serve_arguments(fleet: Fleet, server: Server, *, with_adapters: bool = True) -> list[str]:
    """Return what follows ``vllm serve`` for one server, but its port."""
    arguments = [fleet.model, *server.flags]
    if with_adapters and server.adapters:
        arguments += ["--lora-modules", *(lora_module(each) for each in server.adapters)]
    return arguments


def lora_module(adapter: ServedAdapter) -> str:
    """Return an adapter in the JSON form of ``--lora-modules``: its short form has no room for ``=``."""
    return orjson.dumps({"name": adapter.adapter_id, "path": adapter.path}).decode()


def _case(fleet: Fleet, server: Server) -> str:
    words = " ".join(shlex.quote(word) for word in serve_arguments(fleet, server))
    shares = "".join(
        f"# share of {shlex.quote(name)}: {share:.4g}\n" for name, share in server.shares.items()
    )
    return f'{server.gpu})\n{shares}exec vllm serve {words} --port "$port" ;;'
