"""Do not collect garbage in the first seconds of the processes that tests start.

Most of them import vLLM, and collection takes a sixth of that time.
"""

import gc
from threading import Timer

_IMPORTS = 20.0
"""Seconds after which garbage is collected."""

gc.disable()
_timer = Timer(_IMPORTS, gc.enable)
_timer.daemon = True
_timer.start()
