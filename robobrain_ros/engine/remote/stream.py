"""Read the stream of an OpenAI-compatible server: text, thinking, token counts and log-probabilities."""

from typing import Any

from robobrain_ros.bounds.texts import clean
from robobrain_ros.engine.base import MOST_CHOICES, TextDelta, TokenChoice
from robobrain_ros.engine.remote.client import EndlessResponseError, ServerFault
from robobrain_ros.errors import EngineFailedError

_LETTERS, _CHUNKS, _SPARE = 64, 8, 128
"""Maximum characters and chunks of an answer for each token, and additional tokens. A token usually has 4 characters and one
chunk."""
_MOST_TOKENS = 2**31 - 1
"""Maximum of a server's token counts, because messages cannot contain larger numbers."""
_LONGEST_FINISH_REASON = 40
_IMPOSSIBLE = -1000.0
"""Log-probabilities from this value down mean that the token is forbidden. vLLM's server sends -9999."""
_MOST_PLACES = 64
"""Maximum tokens of a chunk whose log-probabilities are read."""


class StreamReader:
    """Reads the chunks of a stream. It holds back the end of the text until the token counts arrive, which follow the end.

    :param max_tokens: limit of the request. Some servers exceed it. Then the text ends as if the server had stopped there.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._letters = 0
        self._chunks = 0
        self._finish_reason = ""
        self._held_text = ""
        self._tokens = 0
        self._held_tokens = 0
        self._prompt_tokens = 0
        self._held_choices: tuple[tuple[TokenChoice, ...], ...] = ()

    @property
    def full(self) -> bool:
        """Whether the server has sent more than was requested.

        :raises EndlessResponseError: the server has sent many chunks with hardly any text.
        """
        if self._tokens > self._max_tokens or self._letters > _LETTERS * (self._max_tokens + _SPARE):
            self._finish_reason = "length"
            return True
        if self._chunks <= _CHUNKS * (self._max_tokens + _SPARE):
            return False
        if not self._finish_reason:
            raise EndlessResponseError
        return True

    def read(self, chunk: Any) -> list[TextDelta]:
        """Return the pieces of text in a chunk: thinking, if the server separates it, and text."""
        # The package openai does not check the form of the response.
        choices = getattr(chunk, "choices", None)
        # One answer was requested, but a server can send several ones.
        choice = next((it for it in choices if not getattr(it, "index", 0)), None) if isinstance(choices, list) else None
        thinking = text = ""
        choices_of_tokens: tuple[tuple[TokenChoice, ...], ...] = ()
        if choice is not None:
            # A server with a reasoning parser separates thinking from the text. Some servers send it under both names.
            delta = getattr(choice, "delta", None)
            thinking = _text(delta, "reasoning") or _text(delta, "reasoning_content")
            text = _text(delta, "content")
            choices_of_tokens = () if thinking else _token_choices(choice)
            reason = str(getattr(choice, "finish_reason", None) or self._finish_reason)
            self._finish_reason = clean(reason[:_LONGEST_FINISH_REASON])
        usage = getattr(chunk, "usage", None)
        if usage is not None:
            self._prompt_tokens = _number(usage, "prompt_tokens")
            new = max(_number(usage, "completion_tokens") - self._tokens, 0)
        else:
            new = 1 if text or thinking else 0
        self._tokens += new
        self._letters += len(text) + len(thinking)
        self._chunks += 1
        pieces = []
        if thinking:
            pieces.append(TextDelta(thinking, 0 if text else new, self._prompt_tokens, thinking=True))
            new = new if text else 0
        if self._finish_reason:
            self._held_text += text
            self._held_tokens += new
            self._held_choices += choices_of_tokens
        elif text or new:
            pieces.append(TextDelta(text, new, self._prompt_tokens, choices=choices_of_tokens))
        return pieces

    def last(self, url: str) -> TextDelta:
        """Return the last piece of text.

        :raises ServerFault: the answer is incomplete.
        """
        if self._finish_reason in ("", "abort", "error"):
            raise ServerFault(EngineFailedError(f"{url} ended its answer early. Retry."))
        return TextDelta(
            self._held_text,
            self._held_tokens,
            self._prompt_tokens,
            finish_reason=self._finish_reason,
            choices=self._held_choices,
        )


def _text(delta: Any, name: str) -> str:
    value = getattr(delta, name, None)
    return value if isinstance(value, str) else ""


def _token_choices(choice: Any) -> tuple[tuple[TokenChoice, ...], ...]:
    """Return the log-probabilities in a chunk: for each token, the most likely tokens. Entries of another form are left out."""
    places = getattr(getattr(choice, "logprobs", None), "content", None)
    return tuple(map(_choices_at, places[:_MOST_PLACES])) if isinstance(places, list) else ()


def _choices_at(place: Any) -> tuple[TokenChoice, ...]:
    entries = getattr(place, "top_logprobs", None)
    found: dict[str, TokenChoice] = {}
    for entry in [*(entries[:MOST_CHOICES] if isinstance(entries, list) else ()), place]:  # Some servers report only the token.
        token, logprob = getattr(entry, "token", None), getattr(entry, "logprob", None)
        # Some servers report a large negative number for forbidden tokens.
        if isinstance(token, str) and isinstance(logprob, int | float) and _IMPOSSIBLE < logprob <= 0:
            found.setdefault(token, TokenChoice(token, float(logprob)))
    return tuple(sorted(found.values(), key=lambda it: -it.logprob))


def _number(usage: Any, name: str) -> int:
    value = getattr(usage, name, 0)
    return min(max(value, 0), _MOST_TOKENS) if isinstance(value, int) else 0
