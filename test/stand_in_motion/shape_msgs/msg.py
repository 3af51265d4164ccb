"""The message that an example uses."""

from reading import Message


class SolidPrimitive(Message):
    """A solid."""

    SPHERE = 2
