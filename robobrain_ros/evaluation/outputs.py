"""Files for the results of an evaluation. They are checked before the first question, because an evaluation takes hours."""

import os
from pathlib import Path

from robobrain_ros.demo import DemoError


def check_outputs(*paths: Path | None) -> None:
    """Check that files for results can be written. None is not checked.

    :raises DemoError: one of them cannot be written.
    """
    for path in paths:
        if path is None:
            continue
        if not path.absolute().parent.is_dir():
            raise DemoError(f"{path} cannot be written: the folder does not exist.")
        if path.is_dir() or not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
            raise DemoError(f"{path} cannot be written: it is a folder, or the permission is missing.")


def write_output(path: Path, text: str) -> None:
    """Write a file of results.

    :raises DemoError: it cannot be written, for example because the disk is full.
    """
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise DemoError(f"{path} cannot be written: {error.strerror}.") from error
