"""The error of the bag program."""


class BagError(Exception):
    """The program cannot use a bag, or cannot continue. The message states the reason and what to do."""
