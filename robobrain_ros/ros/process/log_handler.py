"""Forward Python's logging to the node's log."""

import logging
from typing import Any

from robobrain_ros.bounds.texts import clean


class RosLogHandler(logging.Handler):
    """Forwards log records of the package to the node's logger."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        text = clean(self.format(record))
        # One call for each level, because rclpy raises an exception if the same line of code logs at different levels.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)
