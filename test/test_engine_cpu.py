"""On a CPU, vLLM's worker runs in the engine's process."""

from typing import Any

import pytest

from robobrain_ros.engine.embedded import cpu
from robobrain_ros.engine.options import EmbeddedOptions


@pytest.mark.parametrize(
    ("options", "variables", "nodes", "in_engine"),
    [
        ({}, {}, 1, True),
        ({"distributed_executor_backend": "uni"}, {}, 1, True),
        ({"distributed_executor_backend": "uni"}, {"VLLM_CPU_OMP_THREADS_BIND": "0-1"}, 2, True),
        ({"distributed_executor_backend": "mp"}, {}, 1, False),
        ({"tensor_parallel_size": 2}, {}, 2, False),
        ({}, {}, 2, False),
        ({}, {"VLLM_CPU_OMP_THREADS_BIND": "0-1"}, 1, False),
        ({}, {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}, 1, True),
        ({}, {"VLLM_CPU_NUM_OF_RESERVED_CPU": "2"}, 1, False),
    ],
)
def test_the_worker_is_in_the_engines_process_if_its_threads_need_no_binding(
    options: dict[str, Any], variables: dict[str, str], nodes: int, in_engine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "_numa_nodes", lambda: nodes)
    arguments = cpu.executor_arguments(EmbeddedOptions(**options), variables)
    assert arguments == ({"distributed_executor_backend": cpu.EXECUTOR} if in_engine else {})


def test_one_core_is_left_for_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads in ((1, "1"), (2, "1"), (8, "7")):
        monkeypatch.setattr(cpu, "_cores", lambda cores=cores: cores)
        assert cpu.environment({"distributed_executor_backend": cpu.EXECUTOR}) == {"OMP_NUM_THREADS": threads}
    assert cpu.environment({"distributed_executor_backend": "mp"}) == {"OMP_NUM_THREADS": None}


def test_the_executor_exists() -> None:
    """vLLM loads the class by its name."""
    from vllm.utils.import_utils import resolve_obj_by_qualname
    from vllm.v1.executor import Executor

    assert issubclass(resolve_obj_by_qualname(cpu.EXECUTOR), Executor)
