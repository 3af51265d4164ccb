"""Read keys of servers from a file or the environment. Keys never appear in logs, messages or parameters."""

import logging
import os
import stat

from robobrain_ros.bounds.files import UnreadableFileError, home_expanded, read_small_file
from robobrain_ros.errors import EngineConfigError

_LONGEST = 4096
_LARGEST_FILE = 64 * 1024

_log = logging.getLogger(__name__)


def read_key(path: str, option: str, variable: str) -> str:
    """Return the key from a file, or from an environment variable if ``path`` is empty, or an empty string if there is no key.

    :param option: name of the option with the file's path, for messages.
    :raises EngineConfigError: the file cannot be read, or its content is not a key. The message does not contain the content.
    """
    if not path:
        return _checked(os.environ.get(variable, ""), variable) if os.environ.get(variable, "").strip() else ""
    try:
        file = read_small_file(home_expanded(path), _LARGEST_FILE)
    except UnreadableFileError as error:
        raise EngineConfigError(f"{option}: {path} cannot be read ({error}).") from error
    if file.mode & (stat.S_IRGRP | stat.S_IROTH):
        _log.warning("%s: other users can read %s. Run chmod 600 on it.", option, path)
    return _checked(file.content.decode("latin-1"), f"{option}: {path}")


def _checked(text: str, where: str) -> str:
    key = text.strip()
    if not key or len(text) > _LONGEST or not all("!" <= letter <= "~" for letter in key):
        raise EngineConfigError(f"{where} must contain only a key: one line of ASCII characters without spaces.")
    return key


def without_key(text: str, key: str) -> str:
    """Return a text from a server with the key replaced by asterisks."""
    return text.replace(key, "***") if key else text
