"""Limits of values in requests, standing queries and parameters. A request beyond a limit ends with BAD_REQUEST."""

from robobrain_ros.core.messages.frames import MOST_FRAME as MOST_FRAME
from robobrain_ros.core.query_checks import LONGEST_TEXT
from robobrain_ros.core.query_checks import REQUESTS as REQUESTS

LEAST_TIMEOUT = 0.001
"""Seconds. Smallest timeout of a request; 0 uses the node's default."""
MOST_TIMEOUT = 3600.0
MOST_TOKENS = 32768
"""Tokens of an answer without its thinking, and tokens of its thinking."""
MOST_TEXT = LONGEST_TEXT
"""Characters of an instruction, question or task."""
MOST_NAME = 100
"""Characters of the name of a camera or a standing query."""
MOST_APPROACH = 10.0
"""Metres. Largest distance of the pose in front of an approach pose."""
MOST_FLOOR_DISTANCE = 100.0
"""Metres. Largest distance of a pose on the floor from its object."""
MOST_CAMERAS = 32
MOST_QUERIES = 100
"""Number of standing queries at the same time."""
MOST_TASK_MODELS = 8
"""Number of models that serve single tasks."""
MOST_WATCHES = 8
"""Number of goals of ~/watch_task at the same time."""
MOST_WATCH = 86_400.0
"""Seconds. Largest timeout of a watched task."""
LEAST_RATE = 0.001
"""Hz. Smallest rate of a standing query; 0 means each new image."""
MOST_RATE = 100.0
MOST_EVENTS = 100
"""Number of events that a late subscriber of ~/events receives."""
MOST_STABLE_FRAMES = 1000
"""Number of consecutive answers before an event of a condition."""
LEAST_CONFIDENCE = 0.5
"""Lowest confidence of an answer to a condition: the model finds yes and no equally probable."""
MOST_PARAMETER_TEXT = 20_000
"""Characters of a text parameter."""
MOST_ITEMS = 1000
"""Items of a list parameter."""
LEAST_HISTORY, LONGEST_HISTORY = 0.1, 3600.0
"""Seconds of the recent images of a camera, in its buffer and in a request; 0 means no recent images."""
LEAST_LIFETIME = 0.001
"""Seconds. Smallest lifetime of the markers; 0 means no limit. RViz reads less than a nanosecond as 0."""
MOST_HISTORY = 256
"""Images in the buffer of a camera. A request takes at most `engine.base.MOST_IMAGES` of them."""
