"""Do not collect garbage in the first seconds of the processes that tests start, and never the objects that exist by then.

Most of these processes import vLLM, which creates a million objects. Each full collection of them takes half a second. vLLM runs
several in its engine process, while it starts and while it ends.
"""

import atexit
import gc
from threading import Thread
from time import sleep

_IMPORTS = 20
"""Seconds after which garbage is collected."""


def _freeze() -> None:
    for _ in range(_IMPORTS):
        sleep(1.0)
        gc.freeze()
    gc.enable()


def _keep_frozen() -> None:
    """Replace ``gc.unfreeze``, which vLLM calls when it shuts down."""


gc.disable()
atexit.register(gc.unfreeze)  # Otherwise, Triton reports leaked objects when the process ends.
gc.unfreeze = _keep_frozen
Thread(target=_freeze, daemon=True).start()
