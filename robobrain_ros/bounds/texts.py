"""Bounds of texts that are quoted in messages, logs and markers."""


def shortened(text: str, longest: int) -> str:
    """The text, cut to so many characters with "..." at the end if it is longer."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
