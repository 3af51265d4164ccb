"""Split the text of an answer into tokens: brackets, numbers, words, quoted strings, commas and colons."""

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

from robobrain_ros.core.reading.escapes import unescape

_LONGEST_TOKEN = 24
"""Most characters of a number or word. The rest is dropped."""
_LARGEST_NUMBER = 1e9
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")
_PUNCTUATION = frozenset("()[]{},:\"'`")
_LOOKALIKES = dict(zip("（）［］【】，：−", "()[][],:-", strict=True))


class TokenKind(Enum):
    """The kind of a token."""

    WORD = auto()
    NUMBER = auto()
    UNBOUNDED_NUMBER = auto()
    """A number that is too long or too large."""
    STRING = auto()
    """A quoted string within an object. The token's text has no quotes and no escapes."""
    OPENING = auto()
    CLOSING = auto()
    COMMA = auto()
    COLON = auto()
    NEWLINE = auto()


class Token(NamedTuple):
    """A token. The text of a word or a number has at most 24 characters.

    :param spaced: whitespace precedes the word or number.
    """

    kind: TokenKind
    text: str
    spaced: bool = False


_COMMA, _COLON, _NEWLINE = Token(TokenKind.COMMA, ","), Token(TokenKind.COLON, ":"), Token(TokenKind.NEWLINE, "\n")


class Lexer:
    """Splits text into tokens. The text may arrive in pieces of any length. Each character is read once.

    Quotes delimit strings only within an object, because prose uses them as apostrophes. A closing bracket of any kind closes the
    innermost open bracket, because models mix the kinds.
    """

    def __init__(self) -> None:
        self._word: list[str] = []
        self._word_cut = False
        self._after_space = False
        """Whether whitespace precedes the current word or, outside of a word, the next word."""
        self._quote = ""
        """The quote that ends the current string; empty outside of strings."""
        self._string: list[str] = []
        self._escaped = False
        self._brackets: list[str] = []

    def feed(self, text: str) -> Iterator[Token]:
        """Read the next piece and yield the tokens that it completes."""
        for character in text:
            if self._quote:
                yield from self._read_string(character)
                continue
            character = _LOOKALIKES.get(character, character)
            apostrophe = character == "'" and self._word
            if apostrophe or (character not in _PUNCTUATION and not character.isspace()):
                self._read_word(character)
                continue
            yield from self.finish()
            self._after_space = character.isspace()
            yield from self._read_punctuation(character)

    def finish(self) -> Iterator[Token]:
        """Yield the number or word that the end of the text completes."""
        if not self._word:
            return
        text, cut = "".join(self._word), self._word_cut
        self._word, self._word_cut = [], False
        yield Token(_kind_of(text, cut), text, self._after_space)

    def _read_word(self, character: str) -> None:
        if len(self._word) < _LONGEST_TOKEN:
            self._word.append(character)
        else:
            self._word_cut = True

    def _read_punctuation(self, character: str) -> Iterator[Token]:
        if character in "([{":
            self._brackets.append(character)
            yield Token(TokenKind.OPENING, character)
        elif character in ")]}":
            if self._brackets:
                self._brackets.pop()
            yield Token(TokenKind.CLOSING, character)
        elif character in "\"'":
            self._quote = character if "{" in self._brackets else ""
        elif character == ",":
            yield _COMMA
        elif character == ":":
            yield _COLON
        elif character == "\n":
            yield _NEWLINE

    def _read_string(self, character: str) -> Iterator[Token]:
        if not self._escaped and character in (self._quote, "\n"):
            text = unescape("".join(self._string))
            self._quote, self._string = "", []
            yield Token(TokenKind.STRING, text)
            return
        self._escaped = character == "\\" and not self._escaped
        self._string.append(character)


def _kind_of(text: str, cut: bool) -> TokenKind:
    if not _NUMBER.fullmatch(text):
        return TokenKind.WORD
    return TokenKind.UNBOUNDED_NUMBER if cut or not abs(float(text)) <= _LARGEST_NUMBER else TokenKind.NUMBER
