"""The log of the stand-in in FlagGems' format: one line for each call, in a separate file."""

import logging

_log = logging.getLogger("flag_gems")


def note(said):
    """Record the call of an operator."""
    _log.debug(said, stacklevel=2)


def setup_flaggems_logging(path=None, record=True, once=False):
    """Start to write the log."""
    if not record:
        return
    handler = logging.FileHandler(path, mode="w")
    handler.setFormatter(logging.Formatter("[%(levelname)s] %(name)s.%(funcName)s: %(message)s"))
    _log.setLevel(logging.DEBUG)
    _log.addHandler(handler)
    _log.propagate = False
