"""Waiting times around the deadline of a request, in seconds.

The `core.brain.Brain` enforces the deadline. Engines have no deadline: they end a request when its stream is closed.
"""

ENGINE_RELEASE = 2.0
"""Time for which a caller that gives up a request waits until the engine releases it. The engine may release it later."""
NODE_GRACE = 5.0
"""Time after the deadline at which the node itself answers TIMEOUT, because the engine's event loop does not respond."""
CLIENT_GRACE = NODE_GRACE + 2.0
"""Time after the deadline for which a client waits for the node's response. The node checks `NODE_GRACE` once a second."""
