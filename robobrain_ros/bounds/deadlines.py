"""How long the layers wait around a request's deadline. Seconds.

The `core.brain.Brain` enforces the deadline. Engines have none of their own: they end a request when its stream is closed.
"""

RELEASE = 2.0
"""For an engine to release a request that was given up. Afterwards its caller gets the outcome, and the engine goes on alone."""
DEAD_LOOP = 5.0
"""After the deadline, for the node to answer in place of an event loop that does not respond."""
CLIENT_MARGIN = 5.0
"""After the deadline, for a client to wait for the node's response."""
