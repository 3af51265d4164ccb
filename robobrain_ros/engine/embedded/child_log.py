"""The log of vLLM during its start. Only this log contains the reason why one of its processes failed."""

import json
import logging
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

LOGGING_VARIABLE = "VLLM_LOGGING_CONFIG_PATH"
"""Environment variable with the file that configures the logging of vLLM and its processes."""

_FORMAT = "%(levelname)s [%(process)d] %(message)s"
_VLLM_LOG = logging.getLogger("vllm")


class ChildLog:
    """A log file of vLLM in this process and its child processes.

    :param folder: folder of the file and the logging configuration.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.configuration = folder / "logging.json"
        self._file = folder / "vllm.log"

    @classmethod
    def create(cls, level: str, folder: Path | None = None) -> "ChildLog":
        """Create a log in a new folder within ``folder``.

        :param level: minimum level of vLLM's lines on the console.
        :raises OSError: the folder is not writable.
        """
        log = cls(Path(tempfile.mkdtemp(prefix="robobrain_ros-log-", dir=folder)))
        line = {"format": _FORMAT}
        handlers = {
            "file": {"class": "logging.FileHandler", "filename": str(log._file), "formatter": "line", "level": "INFO"},
            "console": {"class": "logging.StreamHandler", "formatter": "line", "level": level.upper()},
        }
        loggers = {"vllm": {"handlers": ["file", "console"], "level": "INFO", "propagate": False}}
        configuration = {"version": 1, "disable_existing_loggers": False, "formatters": {"line": line}}
        log.configuration.write_text(json.dumps(configuration | {"handlers": handlers, "loggers": loggers}), encoding="utf-8")
        if "vllm" in sys.modules:
            log._follow_this_process()
        return log

    def _follow_this_process(self) -> None:
        """Add a handler for this process, because vLLM reads its logging configuration only once, when it is imported."""
        handler = logging.FileHandler(self._file)
        handler.setFormatter(logging.Formatter(_FORMAT))
        _VLLM_LOG.addHandler(handler)

    def read(self) -> str:
        """Return the contents of the log."""
        try:
            return self._file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def release(self) -> None:
        """Remove the files. This process stops writing to them; other processes keep their open file until they end."""
        if os.environ.get(LOGGING_VARIABLE) == str(self.configuration):
            del os.environ[LOGGING_VARIABLE]
        for handler in tuple(_VLLM_LOG.handlers):
            if isinstance(handler, logging.FileHandler) and handler.baseFilename == str(self._file):
                _VLLM_LOG.removeHandler(handler)
                with suppress(OSError):  # The disk is full.
                    handler.close()
        shutil.rmtree(self._folder, ignore_errors=True)
