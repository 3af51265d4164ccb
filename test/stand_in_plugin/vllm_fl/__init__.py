"""A stand-in for vllm-plugin-FL on the CPU: its entry points, and the environment variables and log of its August 2026.

``VLLM_FL_STAND_IN`` says how it behaves: "raise", as one does that lacks what it needs; "nothing", as where it has no chip;
"old", as one that is made for another vLLM, whose platform cannot be imported; else it works.
"""

import os


def register():
    """vLLM asks whether it has a platform for this machine."""
    behaviour = os.environ.get("VLLM_FL_STAND_IN", "")
    if behaviour == "raise":
        raise ModuleNotFoundError("No module named 'flagcx'")
    return None if behaviour == "nothing" else "vllm_fl.platform.PlatformFL"


def register_model():
    """A general plugin, too."""
