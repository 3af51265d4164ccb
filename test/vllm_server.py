"""Run vLLM's own OpenAI-compatible server with the tabletop demo model, in a separate process."""

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ports import free_port

from robobrain_ros.demo import DEMO_MODEL

START = 280.0
"""Time limit in seconds for starting vLLM on a busy machine."""
MODEL = "RoboBrain2.0-tabletop"
"""Name of the demo model on the server. The model family is derived from it."""
KEY = "test-key-7f3a"


@contextmanager
def running_server() -> Iterator[str]:
    """Start the same server as `vllm serve`, which vLLM's build for the CPU does not have, and return its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(DEMO_MODEL), "--port", str(port)]
    command += ["--served-model-name", MODEL, "--host", "127.0.0.1", "--max-num-seqs", "8", "--enforce-eager"]
    command += ["--structured-outputs-config", '{"backend": "guidance", "disable_any_whitespace": true}']
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_API_KEY": KEY}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=os.environ | quiet, stdout=log, stderr=log)
        try:
            end = time.monotonic() + START
            while not _is_up(url):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise AssertionError(f"vLLM's server did not start: {log.read()[-3000:].decode(errors='replace')}")
                time.sleep(0.2)  # Only its port shows that the server is ready.
            yield url
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def node_parameters(url: str, folder: Path) -> dict[str, Any]:
    """Return the parameters of a node that uses this server, by name with __ instead of a dot.

    :param folder: folder for the file with the key.
    """
    key_file = folder / "key"
    key_file.write_text(f"{KEY}\n")
    key_file.chmod(0o600)
    return {"engine__kind": "remote", "engine__urls": [url], "engine__key_file": str(key_file)}


def unfinished(url: str) -> int:
    """Return the number of requests that the server computes or keeps waiting."""
    with urllib.request.urlopen(url.replace("/v1", "/metrics"), timeout=10) as response:
        metrics = response.read().decode()
    counts = re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} ([0-9.]+)", metrics, re.MULTILINE)
    assert len(counts) >= 2
    return round(sum(map(float, counts)))


def _is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url.replace("/v1", "/health"), timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False
