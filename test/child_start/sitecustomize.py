"""For the processes that tests start: most of them import vLLM, and a quarter of that time is the garbage collector's."""

import gc

gc.set_threshold(100_000, 50, 100)
