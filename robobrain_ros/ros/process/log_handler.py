"""Python's logging, brought to the node's log."""

import logging
from typing import Any


class RosLogHandler(logging.Handler):
    """Brings the package's log to the node's logger."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        text = self.format(record)
        # A line for each level: rclpy takes it ill when one line logs at different levels.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)
