"""One OpenAI-compatible server: its properties, its health checks, and its text streams."""

import asyncio
import json
import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from robobrain_ros.bounds.texts import one_line
from robobrain_ros.engine.addresses import base_url
from robobrain_ros.engine.base import CheckOrigin, Constraint, Generation, ModelOrigin, TextDelta, message_content
from robobrain_ros.engine.options import CELLS, EngineOptions
from robobrain_ros.engine.remote.client import (
    ServerFault,
    explain,
    make_client,
    wrong_answer,
)
from robobrain_ros.engine.remote.data_url import data_url
from robobrain_ros.engine.remote.stream import StreamReader
from robobrain_ros.errors import BadRequestError, EngineConfigError, EngineFailedError

_CHECK_TIMEOUT = 10.0
"""Time limit in seconds for a health check."""
_PROBE_TIMEOUT = 120.0
"""Time limit in seconds for one image of the measurement, which may wait behind other requests."""
_SILENT_CHECKS = 2
"""Number of failed checks in a row after which a busy server counts as down."""
SILENCE = 8.0
"""Seconds without text, while requests are in progress, after which a server counts as stalled."""
_QUIET = 2.0
"""Seconds without text after which one token is requested from the server."""
_SAFE_CELLS = 64
"""Number of cells of an image that no checkpoint resizes."""
_FEWEST_CELLS = 4
_CELLS_PER_ROW = 128
"""Maximum cells in a row, because models accept aspect ratios up to 200."""
_OF_CHOICES = ("logprobs", "top_logprobs")
"""Fields of a request for log-probabilities."""
_OF_LENGTH = ("max_tokens", "input_tokens", "input_text")
"""Parameters that vLLM names in its error if the model's context is too short for a request."""

_LONGEST_NAMES = 300

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """Properties of a server; 0 means unknown.

    The server does not resize an image if its sides are multiples of ``cell``, and it has ``min_pixels`` to ``max_pixels``
    pixels.

    :param cell: side in pixels of the square that a visual token covers.
    :param priorities: whether the server supports priorities of requests.
    :param names: the model's name, and the name of its checkpoint if the server reports it.
    """

    model: str
    model_type: str
    cell: int
    software: str
    max_model_len: int
    min_pixels: int = 0
    max_pixels: int = 0
    priorities: bool = False
    names: tuple[str, ...] = ()


class Server:
    """A server at one address.

    ``served`` contains its properties after the first successful check. ``fault`` is the server's current fault; None: no fault.
    ``running`` is the number of this node's requests on the server.
    """

    def __init__(self, url: str, options: EngineOptions, key: str, check_origin: CheckOrigin | None) -> None:
        self.url = base_url(url)
        self.served: ServedModel | None = None
        self.fault: ServerFault | None = ServerFault(EngineFailedError(f"{self.url} has not been checked yet."))
        self.running = 0
        self.check_soon = asyncio.Event()
        self._options = options
        self._check_origin = check_origin
        self._key = key
        self._client = make_client(options, url, key)
        self._last_sign = 0.0
        self._silent = 0
        self._unresponsive = False
        self._reports_choices = True

    @property
    def stalled(self) -> bool:
        """Whether it accepts requests but sends no text, for example because its engine hangs."""
        return self._unresponsive or self._silence() >= SILENCE

    def _silence(self) -> float:
        """Return the seconds without text while requests of this node are in progress."""
        return time.monotonic() - self._last_sign if self.running else 0.0

    def _note_sign(self) -> None:
        self._last_sign, self._unresponsive = time.monotonic(), False

    async def _request_sign(self) -> None:
        """Request one token if requests wait for long. A busy server still answers such a request between others."""
        if self.served is None or not (self._unresponsive or self._silence() >= _QUIET):
            return
        with suppress(Exception):
            await asyncio.wait_for(self._probe(self.served, "?", {}), _CHECK_TIMEOUT)
            self._note_sign()

    async def check(self) -> None:
        """Check the server, and set ``served`` and ``fault``. A server that was down is measured again."""
        began = time.monotonic()
        try:
            served = await asyncio.wait_for(self._ask_models(), _CHECK_TIMEOUT)
            if self.fault is not None or self.served is None:
                self.served = await self._measure(served)
                self._reports_choices = True  # The server may have been replaced by another one.
                self._note_sign()
            await self._request_sign()
        except asyncio.TimeoutError:
            self._silent += 1
            # A busy server can be slow to answer a check, but then it sends text.
            if self.fault is None and (self._silent < _SILENT_CHECKS or self._last_sign > began):
                return
            self.fault = ServerFault(EngineFailedError(f"{self.url} accepts connections but does not answer."))
        except Exception as error:
            self.fault = explain(error, self.url, self._options.model, self._key)
        else:
            self._silent, self.fault = 0, None

    def note_fault(self, fault: ServerFault) -> None:
        """Note that a request failed. If the server is down, send no requests until the next successful check."""
        if fault.down:
            self.fault = fault
        if fault.down or fault.doubtful:
            self.check_soon.set()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def generate(self, generation: Generation, images: Sequence[str]) -> AsyncGenerator[TextDelta, None]:
        """Stream text. Closing the stream ends the request on the server.

        :param images: the generation's images as data URLs.
        :raises ServerFault: the request failed.
        """
        assert self.served is not None, "requests go only to available servers"
        if not self.running:
            self._last_sign = time.monotonic()
        self.running += 1
        try:
            body = self._body(generation, images, self.served)
            async with AsyncExitStack() as stack:
                response = await self._open(stack, body)
                _check_kind(response.headers, self.url, "text/event-stream")
                reader = StreamReader(generation.max_tokens)
                async for chunk in await response.parse():
                    self._note_sign()
                    for delta in reader.read(chunk):
                        yield delta
                    if reader.full:
                        break  # Closes the stream, because the server sends more than was requested.
                    await asyncio.sleep(0)  # Lets timers and cancellations run, even if the server sends fast.
                yield reader.last(self.url)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:
            raise explain(error, self.url, self.served.model, self._key) from error
        finally:
            self._unresponsive = self.stalled
            self.running -= 1

    async def _open(self, stack: AsyncExitStack, body: dict[str, Any]) -> Any:
        """Send a request and return the response, which the stack closes.

        vLLM up to 0.31 rejects a request if its prompt and ``max_tokens`` together exceed the model's context. The embedded
        engine and newer servers stop at the end of the context. Without ``max_tokens``, all versions do this. Some servers reject
        a request for log-probabilities. The request is then repeated without them.
        """
        import openai

        create = self._client.chat.completions.with_streaming_response.create
        try:
            return await stack.enter_async_context(create(**body))
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if "max_tokens" in body and error.param in _OF_LENGTH:
                body = {name: value for name, value in body.items() if name != "max_tokens"}
                return await self._open(stack, body)
            if "logprobs" not in body:
                raise
        response = await self._open(stack, {name: value for name, value in body.items() if name not in _OF_CHOICES})
        self._reports_choices = False  # The server accepts this request without them.
        _log.warning("%s does not report log-probabilities, so the confidence of answers is unknown.", self.url)
        return response

    async def _ask_models(self) -> ServedModel:
        response = await self._client.models.with_raw_response.list(timeout=_CHECK_TIMEOUT)
        models = _read_json(response.http_response, self.url).get("data")
        if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
            raise wrong_answer(self.url, "something other than a list of models")
        # An adapter has a parent model.
        wanted = self._options.model
        known = {str(model.get("id")): model for model in models if not model.get("parent") or model.get("id") == wanted}
        if not wanted and len({str(model.get("root") or name) for name, model in known.items()}) == 1:
            known = dict([next(iter(known.items()))])  # Several names of one checkpoint.
        name = wanted or next(iter(known), "")
        names = _cut(", ".join(known) or "none")
        if name not in known or (len(known) > 1 and not wanted):
            problem = f"does not have the model {name!r}. It has: {names}" if wanted else f"has these models: {names}"
            error = EngineConfigError(f"{self.url} {problem}. Set engine.model to one of them.")
            raise ServerFault(error, down=True, lasting=True)
        if not name.isprintable() or len(name) > _LONGEST_NAMES:
            raise wrong_answer(self.url, f"a model name of {len(name)} characters, some of which may not be printable")
        length = known[name].get("max_model_len")
        root = known[name].get("root")
        origin = tuple(dict.fromkeys((name, one_line(root[:_LONGEST_NAMES]) if isinstance(root, str) else name)))
        model_type = self._model_type(origin)
        software = one_line(str(known[name].get("owned_by") or "server")[:40])
        length = length if isinstance(length, int) and length > 0 else 0
        return ServedModel(name, model_type, CELLS[model_type], software, length, names=origin)

    def _model_type(self, names: tuple[str, ...]) -> str:
        """Return the model type. The option takes precedence over the names. `core.profiles` compares both after the start."""
        try:
            named = "" if self._check_origin is None else self._check_origin(ModelOrigin(names))
        except EngineConfigError as error:
            raise ServerFault(error, down=True, lasting=True) from error
        model_type = self._options.remote.model_type or named
        if model_type in CELLS:
            return model_type
        message = (
            f"The model family of {names[0]!r} on {self.url} is unknown. Set model_profile to the family's profile "
            "(docs/reference/models.md), or set engine.model_type to qwen2_5_vl or qwen3_vl, the model_type in its config.json."
        )
        raise ServerFault(EngineConfigError(message), down=True, lasting=True)

    async def _measure(self, served: ServedModel) -> ServedModel:
        """Find the sizes of images that the server does not resize, from its token counts for test images.

        Servers do not report these sizes. If a server resized an image, coordinates would refer to another image.
        """
        served = replace(served, priorities=await self._has_priorities(served))
        text = await self._tokens(served, _SAFE_CELLS) - _SAFE_CELLS
        if text <= 0 or await self._tokens(served, _SAFE_CELLS + 8) != text + _SAFE_CELLS + 8:
            _log.warning("%s does not count image tokens like its model family. Using the size limits of the family.", self.url)
            return served

        async def kept(cells: int) -> bool:
            return await self._tokens(served, cells) == text + cells

        budget = self._options.max_pixels // served.cell**2
        room = served.max_model_len - text - 1
        most = max(min(budget, room) if room > 0 else budget, _SAFE_CELLS)
        largest = most if await kept(most) else await _boundary(kept, _SAFE_CELLS, most)
        smallest = _FEWEST_CELLS if await kept(_FEWEST_CELLS) else await _boundary(kept, _SAFE_CELLS, _FEWEST_CELLS)
        return replace(served, min_pixels=smallest * served.cell**2, max_pixels=largest * served.cell**2)

    async def _has_priorities(self, served: ServedModel) -> bool:
        """Return whether the server supports priorities. A server without them rejects a request with a priority."""
        try:
            await self._probe(served, "priority", {"priority": 1})
        except Exception as error:
            fault = explain(error, self.url, served.model, self._key)
            if not isinstance(fault.error, BadRequestError):
                raise fault from error
            return False
        return True

    async def _tokens(self, served: ServedModel, cells: int) -> int:
        """Return the number of tokens of a prompt with an image of this number of cells.

        The image is a rectangle, so it can have fewer cells. The missing cells are added to the result.
        """
        rows = math.ceil(cells / _CELLS_PER_ROW)
        image = np.full((rows * served.cell, cells // rows * served.cell, 3), 128, np.uint8)
        left_out = cells % rows
        tokens = await self._probe(served, [_image_part(data_url(image, "png", 100)), {"type": "text", "text": "?"}], {})
        return tokens + left_out

    async def _probe(self, served: ServedModel, content: Any, extra: dict[str, Any]) -> int:
        """Return the number of tokens of a prompt."""
        response = await asyncio.wait_for(
            self._client.chat.completions.with_raw_response.create(
                model=served.model,
                messages=[{"role": "user", "content": content}],
                max_tokens=1,
                temperature=0.0,
                extra_body=extra,
                timeout=_PROBE_TIMEOUT,
            ),
            _PROBE_TIMEOUT,
        )
        usage = _read_json(response.http_response, self.url).get("usage")
        tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        return tokens if isinstance(tokens, int) else 0

    def _body(self, generation: Generation, images: Sequence[str], served: ServedModel) -> dict[str, Any]:
        content = message_content(generation.interleaved(list(map(_image_part, images))))
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        # The server's default comes from the checkpoint. With 1.0, greedy decoding is the same on all servers.
        extra: dict[str, Any] = {"repetition_penalty": 1.0}
        if generation.assistant_prefix:
            messages.append({"role": "assistant", "content": generation.assistant_prefix})
            extra |= {"add_generation_prompt": False, "continue_final_message": True}
        if generation.priority and served.priorities:
            extra["priority"] = generation.priority
        if generation.constraint is not None:
            extra["structured_outputs"] = _structured(generation.constraint)
        body: dict[str, Any] = {
            "model": served.model,
            "messages": messages,
            "temperature": generation.temperature,
            "top_p": 1.0,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "extra_body": extra,
        }
        # With the whole context as max_tokens, no tokens remain for the prompt, and some versions of vLLM reject the request.
        # Without max_tokens, the answer stops at the end of the context, as with the embedded engine.
        if not served.max_model_len or generation.max_tokens < served.max_model_len:
            body["max_tokens"] = generation.max_tokens
        if generation.stop:
            body["stop"] = list(generation.stop)
        if generation.temperature > 0:
            body["seed"] = self._options.seed
        if generation.choices and self._reports_choices:
            body |= {"logprobs": True, "top_logprobs": generation.choices}
        return body


def _cut(names: str) -> str:
    return names if len(names) <= _LONGEST_NAMES else f"{names[:_LONGEST_NAMES]}..."


def _image_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def _structured(constraint: Constraint) -> dict[str, Any]:
    if constraint.json_schema:
        return {"json": json.loads(constraint.json_schema)}
    return {"regex": constraint.regex}


async def _boundary(kept: Callable[[int], Awaitable[bool]], good: int, bad: int) -> int:
    """Return by bisection the last number from ``good`` towards ``bad`` for which ``kept`` is true."""
    while abs(bad - good) > 1:
        middle = (good + bad) // 2
        if await kept(middle):
            good = middle
        else:
            bad = middle
    return good


def _check_kind(headers: Any, url: str, wanted: str) -> None:
    kind = headers.get("content-type", "nothing").partition(";")[0].strip()
    if kind != wanted:
        raise wrong_answer(url, f"{kind[:60]} instead of {wanted}")


def _read_json(response: Any, url: str) -> dict[str, Any]:
    _check_kind(response.headers, url, "application/json")
    content = json.loads(response.content)
    if not isinstance(content, dict):
        raise wrong_answer(url, "JSON that is not an object")
    return content
