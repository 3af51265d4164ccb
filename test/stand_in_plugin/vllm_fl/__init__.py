"""A stand-in for vllm-plugin-FL on the CPU. It has the plugin's entry points, environment variables and log of August 2026.

``VLLM_FL_STAND_IN`` selects its behaviour. "raise": it raises an exception, as if a requirement were missing. "nothing": it
finds no chip. "old": it is for another vLLM, so its platform cannot be imported. Otherwise, it works.
"""

import os


def register():
    """Return the platform for this machine. vLLM calls this function."""
    behaviour = os.environ.get("VLLM_FL_STAND_IN", "")
    if behaviour == "raise":
        raise ModuleNotFoundError("No module named 'flagcx'")
    return None if behaviour == "nothing" else "vllm_fl.platform.PlatformFL"


def register_model():
    """Register nothing. It is a general plugin of vLLM."""
