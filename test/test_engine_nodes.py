"""Several machines: the required options, the command that joins a machine, and workers that end with the first machine."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from robobrain_ros.engine.embedded import arguments as vllm_arguments
from robobrain_ros.engine.embedded import compat, worker
from robobrain_ros.engine.embedded.checkpoint import Checkpoint
from robobrain_ros.engine.flagos.choice import Choice, Operators
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError

TWO = EngineOptions.of(model="BAAI/RoboBrain2.0-32B", tensor_parallel_size=4, nnodes=2, master_addr="10.0.0.1")
CHECKPOINT = Checkpoint(Path("/cache/32b"), False, "qwen2_5_vl", 28, 3136, 1003520, 8192, "bfloat16", 67.0, usual_images=True)
LIMIT = 60.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"master_addr": ""}, "engine.master_addr is empty"),
        ({"distributed_executor_backend": "ray"}, "Set it to 1 with ray"),
        ({"tensor_parallel_size": 3}, "= 3 GPUs cannot be shared evenly by engine.nnodes = 2 machines"),
        ({"distributed_executor_backend": "mpi"}, "it must be one of"),
    ],
)
def test_impossible_distributed_options_are_rejected(changes: dict[str, Any], said: str) -> None:
    TWO.validate()
    with pytest.raises(EngineConfigError) as caught:
        TWO.changed(**changes).validate()
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("changes", "present", "refused"),
    [
        ({}, 2, ""),
        ({}, 1, "/ nnodes = 2 needs 2 GPUs, but this machine has 1"),
        ({"nnodes": 1}, 2, "data_parallel_size needs 4 GPUs, but this machine has 2"),
        ({"nnodes": 1, "distributed_executor_backend": "ray"}, 1, ""),
        ({"data_parallel_size": 2}, 4, ""),
    ],
)
def test_each_machine_needs_its_share_of_gpus(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], present: int, refused: str
) -> None:
    import torch

    monkeypatch.setattr(torch.accelerator, "device_count", lambda: present)
    options = TWO.changed(**changes)
    if not refused:
        vllm_arguments.check_device_count(options)
        return
    with pytest.raises(EngineConfigError) as caught:
        vllm_arguments.check_device_count(options)
    assert refused in caught.value.message


def test_the_command_that_joins_means_the_same_engine_to_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's own parser reads the command and gets the options with which the first machine starts its engine."""
    from huggingface_hub import constants
    from vllm import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    # An earlier engine in this process may have set it, and vLLM would then look for the model.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    options = TWO.changed(quantization="fp8", enforce_eager=True, distributed_executor_backend="mp")
    arguments = vllm_arguments.engine_arguments(options, CHECKPOINT, "cuda")
    command = compat.join_command(arguments, 1)
    assert command[:3] == ["vllm", "serve", "/cache/32b"]
    assert "--headless" in command
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    told = [part for part in command[3:] if part != "--headless"]
    joined = AsyncEngineArgs.from_cli_args(parser.parse_args(["--model", command[2], *told]))
    here = AsyncEngineArgs(**arguments)
    different = {name for name in arguments if getattr(joined, name) != getattr(here, name)}
    assert different <= {"served_model_name", "structured_outputs_config"}  # One name, or a list of one; and as an object.
    told_to_hold = {name: getattr(joined.structured_outputs_config, name) for name in compat.STRUCTURED_OUTPUTS_CONFIG}
    assert told_to_hold == compat.STRUCTURED_OUTPUTS_CONFIG
    assert joined.node_rank == 1


@pytest.mark.parametrize(
    ("device", "options", "extra", "compilation"),
    [
        ("cuda", {}, {}, {"compile_mm_encoder": True}),
        ("cuda", {}, {"compilation_config": {"cudagraph_mode": "NONE"}}, {"compile_mm_encoder": True, "cudagraph_mode": "NONE"}),
        ("cuda", {}, {"compilation_config": {"compile_mm_encoder": False}}, {"compile_mm_encoder": False}),
        ("cuda", {}, {"compilation_config": 0}, 0),
        ("cuda", {"enforce_eager": True}, {}, None),
        ("cpu", {}, {}, None),
        ("npu", {}, {}, None),
    ],
)
def test_the_image_encoder_is_compiled_where_vllm_can(
    device: str, options: dict[str, Any], extra: dict[str, Any], compilation: Any
) -> None:
    """Compilation options of the user override this."""
    arguments = vllm_arguments.engine_arguments(TWO.changed(**options), CHECKPOINT, device)
    assert vllm_arguments.with_extra(arguments, extra | {"block_size": 32}).get("compilation_config") == compilation
    assert vllm_arguments.with_extra(arguments, {"block_size": 32})["block_size"] == 32


def test_a_platform_plugin_says_itself_what_is_compiled() -> None:
    """Some of the chips that vllm-plugin-FL supports also call themselves cuda."""
    choice = Choice(Operators.NATIVE, "the plugin's", platform="fl")
    assert "compilation_config" not in vllm_arguments.engine_arguments(TWO, CHECKPOINT, "cuda", choice)


STORE = """
import socket, sys, torch.distributed as dist
store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
sys.stdin.read()
"""

WORKER = """
import sys
from robobrain_ros.engine.embedded.worker import OwnerWatch
print(OwnerWatch().watch_first_machine("127.0.0.1", int(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def start(script: str, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**{name: value for name, value in os.environ.items() if name != worker.OWNER_VARIABLE}, **environment},
    )


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_worker_elsewhere_ends_with_the_first_machines_rendezvous_and_not_before() -> None:
    """Torch's own store, which vLLM's first worker holds, keeps a silent connection open. If the worker is killed, it closes."""
    store = start(STORE)
    port = said(store)
    elsewhere = start(WORKER, port, **{worker.OWNER_VARIABLE: "another-machine:1"})
    here = start(WORKER, port, **{worker.OWNER_VARIABLE: worker.owner_name()})
    try:
        assert said(elsewhere) == "connection"
        assert said(here) == "process"
        with pytest.raises(subprocess.TimeoutExpired):
            elsewhere.wait(2.0)
        store.kill()
        assert elsewhere.wait(LIMIT) == -signal.SIGKILL
        assert here.poll() is None
    finally:
        for process in (store, elsewhere, here):
            process.kill()
            process.wait(LIMIT)


def test_a_process_id_of_another_machine_or_container_is_not_watched() -> None:
    """Two containers may have the same host name. A process id from the other container means nothing in this one."""
    here = worker.owner_name()
    assert worker.in_same_container(here)
    assert not worker.in_same_container(f"another-machine:{here.rpartition(':')[2]}")
    assert not worker.in_same_container("")
    code = "from robobrain_ros.engine.embedded.worker import OwnerWatch; print('alive')"
    done = start(code, **{worker.OWNER_VARIABLE: "another-machine:999999999"})
    assert done.communicate(timeout=LIMIT)[0] == "alive\n"
