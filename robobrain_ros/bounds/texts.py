"""Make texts fit into messages, logs and markers: their length, and characters that no message can contain."""


def shortened(text: str, longest: int) -> str:
    """Return the text. If it has more than ``longest`` characters, it is cut to this length and ends with "..."."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def clean(text: str) -> str:
    """Return a text that a message and a log can contain: without zero bytes, which end a string, and without lone surrogates."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


def one_line(text: str) -> str:
    """Return a text as one line without control characters, which could change the terminal that shows the log."""
    return "".join(letter if letter.isprintable() else " " for letter in " ".join(text.split()))


def has_lone_surrogates(text: str) -> bool:
    """Whether the text has no UTF-8 encoding. Python reads bytes of a command line that are not UTF-8 as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
