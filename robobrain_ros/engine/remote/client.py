"""The HTTP client of remote engines, and the meaning of its errors. All times and sizes are limited."""

import importlib
import json
import logging
import re
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from robobrain_ros.bounds.files import UnreadableFileError, home_expanded, read_small_file
from robobrain_ros.bounds.texts import shortened
from robobrain_ros.engine.addresses import base_url
from robobrain_ros.engine.keys import without_key
from robobrain_ros.engine.options import KEY_VARIABLE, EngineOptions, RemoteOptions
from robobrain_ros.errors import (
    BadRequestError,
    BusyError,
    EngineConfigError,
    EngineFailedError,
    RoboBrainError,
)

CONNECT = 5.0
"""Time limit in seconds for connecting to a server."""
SILENCE = 300.0
"""Maximum seconds between two parts of a server's response."""
LONGEST_LINE = 1 << 20
LARGEST_RESPONSE = 64 << 20
"""Maximum bytes of a streamed response: far more than any answer, and far less than the memory of a robot's computer."""
LARGEST_JSON = 4 << 20
"""Maximum bytes of a response that is read completely before it is parsed."""

_ENDLESS_NUMBER = "integer string conversion"
"""Part of Python's message about a number with thousands of digits."""
_LONGEST_REASON = 300
_CONNECTIONS = 256
_LARGEST_CA_FILE = 4 << 20
"""Maximum bytes of ``engine.ca_file``. The certificates of all public authorities together have 0.3 MB."""

_log = logging.getLogger(__name__)


class EndlessResponseError(Exception):
    """A server sends more data than any answer has."""


@dataclass(eq=False)
class ServerFault(Exception):
    """A failure of a server.

    :param error: outcome of the request.
    :param elsewhere: whether another server can succeed.
    :param down: whether the server gets no requests until its next successful check.
    :param lasting: whether a setting must be changed, so that waiting does not help.
    :param doubtful: whether the server must be checked soon.
    """

    error: RoboBrainError
    elsewhere: bool = True
    down: bool = False
    lasting: bool = False
    doubtful: bool = True


def make_client(options: EngineOptions, url: str, key: str) -> Any:
    """Return an ``openai.AsyncOpenAI`` for one server, without retries, redirects, proxies and other credentials than ``key``.

    :raises EngineConfigError: openai is not installed, or ``engine.ca_file`` cannot be read.
    """
    try:
        import openai
    except ImportError as error:
        raise EngineConfigError("The package openai is not installed in this Python; install it: pip install openai.") from error
    # openai uses the HTTP library httpx. From version 3 on, it uses httpx2.
    httpx = importlib.import_module(openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])

    class Bounded(httpx.AsyncByteStream):  # type: ignore[misc, name-defined]
        """The bytes of a response with limits for lines and total size."""

        def __init__(self, stream: Any, largest: int) -> None:
            self._stream = stream
            self._largest = largest

        async def __aiter__(self) -> AsyncIterator[bytes]:
            total = line = 0
            async for piece in self._stream:
                total += len(piece)
                end = piece.rfind(b"\n")
                line = line + len(piece) if end < 0 else len(piece) - end
                if line > LONGEST_LINE or total > self._largest:
                    raise EndlessResponseError
                yield piece

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def bound(response: Any) -> None:
        # A few compressed bytes could expand to gigabytes. Compression was not requested.
        if response.headers.get("content-encoding", "identity") != "identity":
            raise EndlessResponseError
        streamed = response.headers.get("content-type", "").startswith("text/event-stream")
        response.stream = Bounded(response.stream, LARGEST_RESPONSE if streamed else LARGEST_JSON)

    timeout = httpx.Timeout(SILENCE, connect=CONNECT)
    limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
    http_client = openai.DefaultAsyncHttpxClient(
        verify=_trust(options.remote),
        trust_env=False,
        follow_redirects=False,
        timeout=timeout,
        limits=limits,
        event_hooks={"response": [bound]},
    )
    # By default, openai reads these values from environment variables for OpenAI's own service.
    headers: Any = {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit(), "Accept-Encoding": "identity"}
    return openai.AsyncOpenAI(
        base_url=base_url(url),
        api_key=key or "none",
        max_retries=0,
        timeout=timeout,
        http_client=http_client,
        default_headers=headers,
    )


def _trust(options: RemoteOptions) -> "ssl.SSLContext | bool":
    if not options.verify or not options.ca_file:
        return options.verify
    try:
        content = read_small_file(home_expanded(options.ca_file), _LARGEST_CA_FILE).content
        if not content.strip():  # Python would use the public authorities instead.
            raise UnreadableFileError("it is empty")
        return ssl.create_default_context(cadata=content.decode("ascii", "replace").replace("\ufffd", "?"))
    except UnreadableFileError as error:
        raise EngineConfigError(f"engine.ca_file: {options.ca_file} cannot be read ({error}).") from error
    except (ssl.SSLError, ValueError) as error:
        raise EngineConfigError(
            f"engine.ca_file: {options.ca_file} cannot be read (it contains no certificate in PEM format)."
        ) from error


def explain(error: BaseException, url: str, model: str, key: str) -> ServerFault:
    """Convert an exception of openai or its HTTP library to a fault. No message contains the key."""
    import openai

    if isinstance(error, ServerFault):
        return error
    chain = list(_chain(error))
    if any(isinstance(part, EndlessResponseError) for part in chain):
        return wrong_answer(url, "a response that does not end")
    if isinstance(error, openai.APITimeoutError):
        return ServerFault(
            EngineFailedError(f"{url} does not answer in time. Is the server overloaded?"), down=not _was_connected(chain)
        )
    if isinstance(error, openai.APIConnectionError):
        return _connection_fault(chain, url)
    if isinstance(error, openai.APIStatusError):
        return _status_fault(error, url, model, key)
    if isinstance(error, openai.APIError):  # The server sent an error in the stream.
        return ServerFault(EngineFailedError(f"{url} ended its answer with an error: {_reason(error.message, key)}"))
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError) or _ENDLESS_NUMBER in str(error):
        return wrong_answer(url, "text that is not JSON")
    if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2"):
        return ServerFault(EngineFailedError(f"{url} closed the connection during its answer. Retry."))
    _log.error("The request to %s failed.", url, exc_info=error)
    message = f"The request to {url} failed ({type(error).__name__}). The log has the traceback."
    return ServerFault(EngineFailedError(message), lasting=True)


def wrong_answer(url: str, what: str) -> ServerFault:
    """Return the fault of a server that is not OpenAI-compatible."""
    message = f"{url} answers with {what}. Is it an OpenAI-compatible server (.../v1)?"
    return ServerFault(EngineFailedError(message), down=True, lasting=True)


def _connection_fault(chain: list[BaseException], url: str) -> ServerFault:
    for part in chain:
        if isinstance(part, ssl.SSLCertVerificationError):
            message = (
                f"The certificate of {url} is invalid ({part.verify_message}). Set engine.ca_file to its authority, or "
                "use the host name of the certificate in engine.urls."
            )
            return ServerFault(EngineFailedError(message), down=True, lasting=True)
        if isinstance(part, ssl.SSLError):
            message = f"The TLS connection to {url} failed ({part.reason}). Is it an http:// server?"
            return ServerFault(EngineFailedError(message), down=True, lasting=True)
    if _was_connected(chain):
        return ServerFault(EngineFailedError(f"{url} closed the connection. Retry."))
    reason = next((part.strerror for part in reversed(chain) if isinstance(part, OSError) and part.strerror), "")
    reason = reason or _reason(str(chain[-1]) or type(chain[-1]).__name__, "")
    message = f"{url} is unreachable ({reason}). Is the server running, and is the network up?"
    return ServerFault(EngineFailedError(message), down=True)


def _was_connected(chain: list[BaseException]) -> bool:
    return not any(type(part).__name__ in ("ConnectError", "ConnectTimeout") for part in chain)


def _status_fault(error: Any, url: str, model: str, key: str) -> ServerFault:
    status, reason = error.status_code, _server_reason(error, key)
    if status in (401, 403):
        message = f"{url} rejects the key ({status}). Check engine.key_file, or the environment variable {KEY_VARIABLE}."
        return ServerFault(EngineFailedError(message), down=True, lasting=True)
    if status == 404:
        named = f", or it has no model {model!r}" if model else ""
        message = f"{url} does not have the requested path{named} (404: {reason}). Check engine.urls and engine.model."
        return ServerFault(EngineFailedError(message), down=True, lasting=True)
    if 300 <= status < 400:
        to = _redirected_to(str(error.response.headers.get("location", "")), key)
        message = f"{url} redirects{to} ({status}), which is not supported. Set engine.urls to the final URL."
        return ServerFault(EngineFailedError(message), down=True, lasting=True)
    if status == 429:
        return ServerFault(BusyError(f"{url} has too many requests ({reason}). Retry later."), doubtful=False)
    if status in (400, 413, 422):
        return ServerFault(BadRequestError(f"The server rejects the request: {reason}"), elsewhere=False, doubtful=False)
    return ServerFault(EngineFailedError(f"{url} failed ({status}: {reason}). See the log of the server."))


def _redirected_to(location: str, key: str) -> str:
    """Return scheme and host of a redirect as a part of a sentence, or an empty string if the location is no absolute URL."""
    try:
        place = urlsplit(location)
        return f" to {_reason(f'{place.scheme}://{place.hostname}', key)}" if place.hostname else ""
    except ValueError:  # Such as http://[::1
        return ""


def _server_reason(error: Any, key: str) -> str:
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        body = inner.get("message", "") if isinstance(inner, dict) else inner
    return _reason(str(body or ""), key)


def _reason(text: str, key: str) -> str:
    """Return a server's message as one short line without markup and without the key."""
    plain = re.sub(r"<[^>]*>", " ", text) if text.lstrip().startswith("<") else text
    # The key is removed before the text is shortened, because a part of a key would not be found.
    line = " ".join(without_key(plain, key).split())
    line = "".join(letter for letter in line if letter.isprintable())
    return shortened(line, _LONGEST_REASON)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__
