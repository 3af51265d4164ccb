"""Waiting times around the deadline of a request, in seconds.

The `core.brain.Brain` enforces the deadline. Engines have no deadline: they end a request when its stream is closed.
"""

ENGINE_RELEASE = 2.0
"""How long a caller that gives up a request waits for the engine to release it. The engine may continue to release it later."""
NODE_GRACE = 5.0
"""How long after the deadline the node answers TIMEOUT itself, because the engine's event loop does not respond."""
CLIENT_GRACE = NODE_GRACE + 2.0
"""How long after the deadline a client waits for the node's response. The node checks its own limit once a second."""
