"""Limit the length of texts that are quoted in messages, logs and markers."""


def shortened(text: str, longest: int) -> str:
    """Return the text. If it has more than ``longest`` characters, it is cut to this length and ends with "..."."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def has_lone_surrogates(text: str) -> bool:
    """Whether the text has no UTF-8 encoding. Python reads bytes of a command line that are not UTF-8 as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
