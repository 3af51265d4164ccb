"""Environment variables that engines of this process set, for vLLM and its processes. What the user has set stays."""

import os
from collections.abc import Mapping

OFFLINE_VARIABLE = "HF_HUB_OFFLINE"

_set: dict[str, str] = {}
"""What engines of this process have set."""


def put(values: Mapping[str, str | None]) -> None:
    """Set variables, None: not to be set, but those that the user has set."""
    for name, value in values.items():
        # What an engine before this one has set is not the user's.
        if name in os.environ and os.environ[name] != _set.get(name):
            continue
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = _set[name] = value


def go_offline() -> None:
    """Disable downloads from the hub, so that nothing waits for a missing network."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and OFFLINE_VARIABLE not in os.environ:
        os.environ[OFFLINE_VARIABLE] = _set[OFFLINE_VARIABLE] = "1"
        constants.HF_HUB_OFFLINE = True


def go_online() -> None:
    """Undo `go_offline`, for a model that may be on the hub."""
    if _set.pop(OFFLINE_VARIABLE, None) is not None:
        from huggingface_hub import constants

        os.environ.pop(OFFLINE_VARIABLE, None)
        constants.HF_HUB_OFFLINE = False
