"""A platform that is vLLM's own for the CPU, with another worker."""

import os

from vllm.platforms.cpu import CpuPlatform

if os.environ.get("VLLM_FL_STAND_IN") == "old":
    raise ImportError("cannot import name 'SparseWeightPatch' from 'vllm'")


class PlatformFL(CpuPlatform):
    @classmethod
    def check_and_update_config(cls, vllm_config):
        vllm_config.parallel_config.worker_cls = "vllm_fl.worker.WorkerFL"
        super().check_and_update_config(vllm_config)
