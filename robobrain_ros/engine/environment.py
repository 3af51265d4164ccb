"""Set environment variables for vLLM and its processes. Variables that the user has set keep their values."""

import os
from collections.abc import Mapping

OFFLINE_VARIABLE = "HF_HUB_OFFLINE"

_set: dict[str, str] = {}
"""Variables that engines of this process have set."""


def set_variables(values: Mapping[str, str | None]) -> None:
    """Set variables, or unset them if the value is None. Variables that the user has set do not change."""
    for name, value in values.items():
        # A value that an earlier engine has set does not come from the user.
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
    """Undo `go_offline`, so that a model can be downloaded from the hub."""
    if _set.pop(OFFLINE_VARIABLE, None) is not None:
        from huggingface_hub import constants

        os.environ.pop(OFFLINE_VARIABLE, None)
        constants.HF_HUB_OFFLINE = False
