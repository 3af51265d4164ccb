"""Messages between run.py and host.py."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Direct:
    """Command: send this number of direct calls at once about the newest image. The response is `Asked`."""

    text: str
    count: int
    timeout: float
    max_tokens: int


@dataclass(frozen=True)
class AwaitImage:
    """Command: wait for the camera's image with this stamp (nanoseconds). The response states whether it arrived."""

    stamp: int
    timeout: float


@dataclass(frozen=True)
class Asked:
    """Seconds from the first call to the last answer; and for each call the seconds, the name of the error, and the tokens."""

    seconds: float
    each: list[tuple[float, str, int]]
