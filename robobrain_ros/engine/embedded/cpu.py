"""On a CPU, vLLM's worker runs in the engine's process, as on one GPU.

By default, vLLM starts a separate process for the worker, whose OpenMP threads it binds to cores. This process imports vLLM once
more. Without it, an engine starts in less time and needs less memory, and its answers take as long (docs/results/node.md).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robobrain_ros.engine.options import EmbeddedOptions

EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""vLLM's executor with the worker in the engine's process. On a CPU, vLLM replaces its short name, uni, by mp."""
_BINDING = ("VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_NUM_OF_RESERVED_CPU", "VLLM_CPU_SIM_MULTI_NUMA")
"""Variables with which a user binds the threads of workers to cores."""
_NOT_BOUND = "nobind"
_SYSTEM = Path("/sys/devices/system")


def executor_arguments(options: EmbeddedOptions, variables: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the arguments of vLLM's engine on a CPU that select the executor. Empty: vLLM selects it.

    vLLM selects it for several workers, and, unless the backend is uni, for a computer with several NUMA nodes and if the user
    binds threads to cores.
    """
    if options.gpus > 1 or options.distributed_executor_backend not in ("", "uni"):
        return {}
    bound = any(variables.get(name, _NOT_BOUND) != _NOT_BOUND for name in _BINDING)
    wanted = options.distributed_executor_backend == "uni" or (not bound and _numa_nodes() <= 1)
    return {"distributed_executor_backend": EXECUTOR} if wanted else {}


def environment(arguments: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the environment variables of an engine with these final arguments: one thread for each core, except one core.

    The remaining core runs the scheduler and the node. vLLM does the same for a separate worker process. A user's own value of
    OMP_NUM_THREADS has priority (`environment.set_variables`).
    """
    if arguments.get("distributed_executor_backend") != EXECUTOR:
        return {"OMP_NUM_THREADS": None}
    return {"OMP_NUM_THREADS": str(max(1, _cores() - 1))}


def _numa_nodes() -> int:
    return len(list(_SYSTEM.glob("node/node[0-9]*")))


def _cores() -> int:
    """Return the number of physical cores that this process may use."""
    siblings = set()
    for number in os.sched_getaffinity(0):
        try:
            siblings.add((_SYSTEM / f"cpu/cpu{number}/topology/thread_siblings_list").read_text(encoding="ascii"))
        except OSError:
            siblings.add(str(number))
    return len(siblings)
