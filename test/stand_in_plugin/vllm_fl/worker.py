"""A worker that imports FlagGems when it is created."""

import os

from vllm.v1.worker.cpu_worker import CPUWorker


class WorkerFL(CPUWorker):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        if os.environ.get("USE_FLAGGEMS", "1").lower() in ("true", "1"):
            _enable_flag_gems()


def _enable_flag_gems():
    import flag_gems

    include = os.environ.get("VLLM_FL_FLAGOS_WHITELIST", "")
    exclude = os.environ.get("VLLM_FL_FLAGOS_BLACKLIST", "") or "index_put"
    log = {"record": True, "once": True, "path": os.environ["FLAGGEMS_ENABLE_OPLIST_PATH"]}
    if include:
        flag_gems.only_enable(include=include.split(","), **log)
    else:
        flag_gems.enable(unused=exclude.split(","), **log)
