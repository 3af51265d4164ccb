"""Limit the length of texts that are quoted in messages, logs and markers."""


def shortened(text: str, longest: int) -> str:
    """Return the text. If it has more than ``longest`` characters, it is cut to this length and ends with "..."."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
