"""Bounds of what requests, standing queries and parameters may hold; beyond them a request is BAD_REQUEST."""

from robobrain_ros.core.query_checks import LONGEST_TEXT

LEAST_TIMEOUT = 0.001
"""Seconds of a request's own deadline; 0 is the node's default."""
MOST_TIMEOUT = 3600.0
MOST_TOKENS = 32768
"""Tokens of an answer, and of its thinking."""
MOST_TEXT = LONGEST_TEXT
"""Characters of an instruction, question or task."""
MOST_NAME = 100
"""Characters of the name of a camera or a standing query."""
MOST_FRAME = 255
"""Characters of the name of a frame. An image with a longer one is BAD_IMAGE."""
MOST_CAMERAS = 32
MOST_QUERIES = 100
"""Standing queries at a time."""
LEAST_RATE = 0.001
"""Hz of a standing query; 0 asks on each new image."""
MOST_RATE = 100.0
MOST_PARAMETER_TEXT = 20_000
"""Characters of a parameter that is a text."""
MOST_ITEMS = 1000
"""Items of a parameter that is a list."""
