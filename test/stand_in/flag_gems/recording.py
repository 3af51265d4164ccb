"""The stand-in's log, as FlagGems writes it: a line for each call, into a file of its own."""

import logging

_log = logging.getLogger("flag_gems")


def note(said):
    """An operator was called."""
    _log.debug(said, stacklevel=2)


def setup_flaggems_logging(path=None, record=True, once=False):
    """Begin to write the log."""
    if not record:
        return
    handler = logging.FileHandler(path, mode="w")
    handler.setFormatter(logging.Formatter("[%(levelname)s] %(name)s.%(funcName)s: %(message)s"))
    _log.setLevel(logging.DEBUG)
    _log.addHandler(handler)
    _log.propagate = False
