"""What run.py and host.py say to each other."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Direct:
    """Command: ask that many times at once, straight from Python, about the newest image. Answered with `Asked`."""

    text: str
    count: int
    timeout: float
    max_tokens: int


@dataclass(frozen=True)
class AwaitImage:
    """Command: wait for the camera's image with that stamp (nanoseconds). Answered with whether it came."""

    stamp: int
    timeout: float


@dataclass(frozen=True)
class Asked:
    """Seconds from the first call to the last answer, and of each call: seconds, the error's name, and the tokens written."""

    seconds: float
    each: list[tuple[float, str, int]]
