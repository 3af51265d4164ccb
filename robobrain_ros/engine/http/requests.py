"""Check the bodies of HTTP requests. Each route has a table of its fields. A field that is not in the table is rejected.

`checked_body` serializes the checked values again, so vLLM's application reads only checked values.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from robobrain_ros.bounds.compile_cost import BASE, MOST_COMPILE
from robobrain_ros.bounds.constraints import LARGEST_SCHEMA, reject_constant
from robobrain_ros.engine.http.checks import (
    DEEPEST_JSON,
    RequestError,
    check_depth,
    dropped,
    flag,
    integer,
    list_of,
    number,
    one_of,
    only,
    plain_json,
    text,
)
from robobrain_ros.engine.http.images import ImageBudget
from robobrain_ros.engine.http.schemas import check_choice, check_regex, check_schema

MOST_VALUES = 100_000
"""Most JSON values in a body. They are counted by separator characters, including separators in strings."""
MOST_MESSAGES = 256
MOST_PARTS = 64
"""Parts in the content of one message."""
MOST_PROMPTS = 16
MOST_TOOLS = 128
LARGEST_TOOLS = 256 * 1024
"""Bytes of all tools together as JSON text."""
MOST_STOPS = 16
LONGEST_STOP = 256
MOST_BIASES = 300
MOST_LOGPROBS = 20
CHARACTERS_PER_TOKEN = 16
"""Allowed characters of a prompt for each token of the model's context. No text needs more."""
LARGEST_ID = 2**31 - 1


@dataclass(frozen=True)
class RequestLimits:
    """Limits of a request.

    :param max_model_len: tokens of the model's context.
    :param max_answers: most answers to one request.
    :param max_images: most images in one request.
    :param max_pixels: most pixels of all images of a request together.
    :param max_body: most bytes of a body, and of an image that the server fetches.
    :param names: names of the model that clients may use. The first one is the model's own name.
    :param domains: hosts from which the server may fetch images.
    """

    max_model_len: int
    max_answers: int
    max_images: int
    max_pixels: int
    max_body: int
    names: tuple[str, ...]
    domains: tuple[str, ...] = ()


class CheckedBody(NamedTuple):
    """A checked request.

    :param content: the body for vLLM's application.
    :param compile_cost: estimated CPU time in milliseconds for compiling the constraints of all its answers.
    """

    content: bytes
    compile_cost: float


def checked_body(path: str, body: bytes, limits: RequestLimits) -> CheckedBody:
    """Check a body. Call it in a thread, because it decodes images.

    :param path: one of `ROUTES`.
    :raises RequestError: the body is invalid, or a field is not supported.
    """
    request = _Request(limits)
    checked = request.fields(_parse(body), ROUTES[path])
    if all(checked.get(name) in (None, []) for name in NEEDED[path]):
        raise RequestError(NEEDED[path][0], "this field is missing or empty")
    if checked.get("tool_choice", "auto") not in ("auto", "none"):
        # If a tool must be called, vLLM compiles the schemas of the tools to a constraint. Otherwise, it does not.
        for number, tool in enumerate(checked.get("tools", ())):
            request.json_schema(tool["function"].get("parameters", {}), f"tools[{number}].function.parameters")
    prompts = checked.get("prompt")
    answers = (len(prompts) if isinstance(prompts, list) else 1) * checked.get("n", 1)
    cost = answers * request.compile_cost
    if cost > MOST_COMPILE:
        raise RequestError(
            "",
            f"compiling the constraints of all answers would take more than {MOST_COMPILE:.0f} ms (estimate: {cost:.0f} ms); use "
            "fewer tools, prompts or answers, or simpler constraints",
        )
    try:
        return CheckedBody(json.dumps(checked, ensure_ascii=False).encode(), cost)
    except UnicodeEncodeError as error:  # The names and values of schemas can also contain lone surrogates.
        raise RequestError("", "a string in the body contains a lone surrogate, which is not a valid character") from error


def largest_body(path: str, limits: RequestLimits) -> int:
    """Return the most bytes of a body. For a route without images: enough for text and tools if each character is escaped."""
    if path == "/v1/chat/completions":
        return limits.max_body
    return min(limits.max_body, LARGEST_TOOLS + LARGEST_SCHEMA + 6 * CHARACTERS_PER_TOKEN * limits.max_model_len)


def _parse(body: bytes) -> dict[str, Any]:
    if sum(map(body.count, (b",", b":", b"[", b"{"))) > MOST_VALUES:
        raise RequestError(
            "", f"the body has more than {MOST_VALUES} JSON values (commas, colons and brackets in its texts also count)"
        )
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=reject_constant)
    except UnicodeDecodeError as error:
        raise RequestError("", "the body is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise RequestError("", f"the body is not JSON: {str(error)[:200] or 'nested too deeply'}") from error
    if not isinstance(value, dict):
        raise RequestError("", "the body is not a JSON object")
    return value


_JSON = plain_json(DEEPEST_JSON, LARGEST_TOOLS)


class _Request:
    """Checks one body, and counts its characters, tokens and images."""

    def __init__(self, limits: RequestLimits) -> None:
        self._limits = limits
        self._images = ImageBudget(limits.max_images, limits.max_pixels, limits.max_body, limits.domains)
        self._most_characters = self._characters = CHARACTERS_PER_TOKEN * limits.max_model_len
        self._most_tokens = self._tokens = limits.max_model_len
        self.compile_cost = 0.0
        """Estimated milliseconds for compiling the constraints once."""

    def fields(self, body: dict[str, Any], table: Mapping[str, Any], place: str = "") -> dict[str, Any]:
        """Check an object. The table has a check for each supported field. A field with null counts as missing."""
        checked = {}
        for name, value in body.items():
            where = f"{place}.{name[:60]}" if place else name[:60]
            if name not in table:
                raise RequestError(where, f"this field is not supported; supported fields are {', '.join(sorted(table))}")
            if value is None:
                continue
            check = table[name]
            result = getattr(self, check)(value, where) if isinstance(check, str) else check(value, where)
            if result is not None:
                checked[name] = result
        return checked

    def _object(self, value: Any, place: str, table: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise RequestError(place, "an object is expected")
        return self.fields(value, table, place)

    def written(self, value: Any, place: str) -> Any:
        """Check a text that becomes part of the prompt."""
        result = text(self._most_characters)(value, place)
        self._characters -= len(result)
        if self._characters < 0:
            raise RequestError(
                place,
                f"the texts together have more than {self._most_characters} characters, {CHARACTERS_PER_TOKEN} for each of the "
                f"{self._limits.max_model_len} tokens that a request may have (engine.max_model_len)",
            )
        return result

    def model(self, value: Any, place: str) -> Any:
        """Check a name of the model."""
        if text()(value, place) not in self._limits.names:
            names = ", ".join(self._limits.names)
            raise RequestError(place, f"there is no model {value!r}; available: {names}", status=404)
        return value

    def length(self, value: Any, place: str) -> Any:
        """Check a number of tokens of the answer."""
        return integer(0, self._limits.max_model_len)(value, place)

    def answers(self, value: Any, place: str) -> Any:
        """Check a number of answers."""
        most = self._limits.max_answers
        if isinstance(value, int) and value > most:
            raise RequestError(place, f"{value} answers are requested; at most {most} are allowed")
        return integer(1, most)(value, place)

    def tokens(self, value: Any, place: str) -> Any:
        """Check a text as token ids."""
        result = list_of(integer(0, LARGEST_ID), self._most_tokens)(value, place)
        self._tokens -= len(result)
        if self._tokens < 0:
            raise RequestError(place, f"there are more than {self._most_tokens} tokens (engine.max_model_len)")
        return result

    def prompt(self, value: Any, place: str) -> Any:
        """Check the prompt of a completion: a text, token ids, or a list of texts and lists of token ids."""
        if isinstance(value, str):
            return self.written(value, place)
        if isinstance(value, list) and value and isinstance(value[0], int):
            return self.tokens(value, place)

        def one(item: Any, where: str) -> Any:
            return self.tokens(item, where) if isinstance(item, list) else self.written(item, where)

        return list_of(one, MOST_PROMPTS)(value, place)

    def stops(self, value: Any, place: str) -> Any:
        """Check the texts that end an answer."""
        one = text(LONGEST_STOP)
        return one(value, place) if isinstance(value, str) else list_of(one, MOST_STOPS)(value, place)

    def biases(self, value: Any, place: str) -> Any:
        """Check logit biases by token id."""
        if not isinstance(value, dict) or len(value) > MOST_BIASES:
            raise RequestError(place, f"an object of at most {MOST_BIASES} tokens is expected")
        for key in value:
            if not key.isascii() or not key.isdigit() or len(key) > 10 or int(key) > LARGEST_ID:
                raise RequestError(place, f"{key[:20]!r} is not the id of a token")
        return {key: number(-100, 100)(item, f"{place}.{key}") for key, item in value.items()}

    def stream_options(self, value: Any, place: str) -> Any:
        """Check the options of a stream."""
        table = {"include_usage": flag, "continuous_usage_stats": flag, "include_obfuscation": dropped}
        return self._object(value, place, table)

    def template_arguments(self, value: Any, place: str) -> Any:
        """Check the arguments of the chat template."""
        return self._object(value, place, {"enable_thinking": flag})

    def structured(self, value: Any, place: str) -> Any:
        """Check a constraint in the format of vLLM."""
        for name in ("grammar", "structural_tag"):
            if isinstance(value, dict) and value.get(name) is not None:
                raise RequestError(f"{place}.{name}", "this kind of constraint is not supported; use json, regex or choice")
        table: dict[str, Any] = {"regex": "regex", "choice": "choice", "json": "json_schema", "json_object": "json_object"}
        table |= dict.fromkeys(("grammar", "structural_tag"), dropped)
        return self._object(value, place, table)

    def _constraint(self, check: Callable[[Any], float], value: Any, place: str) -> Any:
        try:
            self.compile_cost += check(value)
        except ValueError as error:
            raise RequestError(place, str(error)) from error
        return value

    def json_object(self, value: Any, place: str) -> Any:
        """Check whether the answer must be a JSON object."""
        self.compile_cost += BASE if flag(value, place) else 0.0
        return value

    def json_schema(self, value: Any, place: str) -> Any:
        """Check a JSON schema."""
        return self._constraint(check_schema, value, place)

    def regex(self, value: Any, place: str) -> Any:
        """Check a regular expression."""
        return self._constraint(check_regex, value, place)

    def choice(self, value: Any, place: str) -> Any:
        """Check a list of allowed answers."""
        return self._constraint(check_choice, value, place)

    def response_format(self, value: Any, place: str) -> Any:
        """Check a constraint in the format of OpenAI."""
        table = {"type": one_of("text", "json_object", "json_schema"), "json_schema": "schema_of_format"}
        checked = self._object(value, place, table)
        if checked.get("type", "") == "json_schema" and "schema" not in checked.get("json_schema", {}):
            raise RequestError(f"{place}.json_schema.schema", "a JSON schema is expected")
        if "type" not in checked:
            raise RequestError(f"{place}.type", "one of text, json_object, json_schema is expected")
        self.compile_cost += BASE if checked["type"] == "json_object" else 0.0
        return checked

    def schema_of_format(self, value: Any, place: str) -> Any:
        """Check the named schema of a ``response_format``."""
        table = {"name": text(), "description": text(LARGEST_TOOLS), "schema": "json_schema", "strict": flag}
        return {"name": "answer"} | self._object(value, place, table)

    def tools(self, value: Any, place: str) -> Any:
        """Check the functions that the model may call. They are part of the prompt, so they count as text."""
        result = list_of(self._tool, MOST_TOOLS)(value, place)
        self.written(json.dumps(result)[: self._most_characters + 1], place)
        return result

    def _tool(self, value: Any, place: str) -> Any:
        table = {"type": one_of("function"), "function": "function"}
        checked = self._object(value, place, table)
        if "function" not in checked:
            raise RequestError(f"{place}.function", "a function is expected")
        return {"type": "function"} | checked

    def function(self, value: Any, place: str) -> Any:
        """Check the function of a tool."""
        checked = self._object(
            value, place, {"name": text(64), "description": text(LARGEST_TOOLS), "parameters": _JSON, "strict": dropped}
        )
        if not checked.get("name"):
            raise RequestError(f"{place}.name", "a name is expected")
        return checked

    def tool_choice(self, value: Any, place: str) -> Any:
        """Check whether the model must call a function, and which one."""
        if isinstance(value, str):
            return one_of("none", "auto", "required")(value, place)
        named = {"type": one_of("function"), "function": lambda it, where: self._object(it, where, {"name": text(64)})}
        return self._object(value, place, named)

    def messages(self, value: Any, place: str) -> Any:
        """Check the messages of a conversation."""
        if not isinstance(value, list) or not value:
            raise RequestError(place, "a list of messages is expected")
        return list_of(self._message, MOST_MESSAGES)(value, place)

    def _message(self, value: Any, place: str) -> Any:
        checked = self._object(value, place, _MESSAGE)
        if "role" not in checked:
            raise RequestError(f"{place}.role", "a role is expected")
        if "content" not in checked and "tool_calls" not in checked:
            raise RequestError(f"{place}.content", "a content is expected")
        return checked

    def content(self, value: Any, place: str) -> Any:
        """Check the content of a message."""
        if isinstance(value, str):
            return self.written(value, place)
        return list_of(self._part, MOST_PARTS)(value, place)

    def _part(self, value: Any, place: str) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if kind == "text":
            checked = self._object(value, place, {"type": text(), "text": "written"})
            if "text" not in checked:
                raise RequestError(f"{place}.text", "a text is expected")
            return checked
        if kind != "image_url":
            raise RequestError(f"{place}.type", f"{str(kind)[:40]!r} is not supported; use text or image_url")
        checked = self._object(value, place, {"type": text(), "image_url": "image"})
        if "image_url" not in checked:
            raise RequestError(f"{place}.image_url", "an image is expected")
        return checked

    def image(self, value: Any, place: str) -> Any:
        """Check an image: its URL, or an object with its URL."""
        table = {"url": lambda url, where: url, "detail": dropped}
        url = value if isinstance(value, str) else self._object(value, place, table).get("url")
        if not isinstance(url, str):
            raise RequestError(f"{place}.url", "a string is expected")
        try:
            return {"url": self._images.take(url)}
        except ValueError as error:
            raise RequestError(f"{place}.url", str(error)) from error

    def tool_calls(self, value: Any, place: str) -> Any:
        """Check the tool calls of an earlier answer."""
        return list_of(self._tool_call, MOST_PARTS)(value, place)

    def _tool_call(self, value: Any, place: str) -> Any:
        checked = self._object(value, place, {"id": text(), "type": one_of("function"), "function": "call", "index": dropped})
        if "function" not in checked:
            raise RequestError(f"{place}.function", "a function is expected")
        return {"id": "call", "type": "function"} | checked

    def call(self, value: Any, place: str) -> Any:
        """Check the function of a tool call. Its arguments are a JSON object as text."""
        checked = self._object(value, place, {"name": text(64), "arguments": "arguments"})
        if "name" not in checked:
            raise RequestError(f"{place}.name", "a name is expected")
        return {"arguments": "{}"} | checked

    def arguments(self, value: Any, place: str) -> Any:
        """Check the arguments of a tool call."""
        if isinstance(value, str) and not value.strip():
            return "{}"
        self.written(value, place)
        try:
            arguments = json.loads(value, parse_constant=reject_constant)
        except (ValueError, RecursionError) as error:
            raise RequestError(place, f"the arguments are not JSON: {str(error)[:100]}") from error
        if not isinstance(arguments, dict):
            raise RequestError(place, "the arguments are not a JSON object")
        check_depth(arguments, place, DEEPEST_JSON)
        return value


_ROLES = ("system", "developer", "user", "assistant", "tool")
_MESSAGE = {
    "role": one_of(*_ROLES), "content": "content", "name": text(64), "tool_calls": "tool_calls", "tool_call_id": text(),
    "refusal": dropped, "annotations": dropped, "audio": dropped, "reasoning": dropped, "reasoning_content": dropped,
    "function_call": dropped,
}  # fmt: skip
_WITHOUT_EFFECT = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "priority",
    "request_id", "verbosity",
)  # fmt: skip
"""Fields of OpenAI's and vLLM's APIs that clients send and that have no effect here."""
_SAMPLING: dict[str, Any] = {
    "model": "model", "max_tokens": "length", "min_tokens": "length", "n": "answers", "stream": flag,
    "stream_options": "stream_options", "temperature": number(0, 2), "top_p": number(0, 1), "top_k": integer(-1, LARGEST_ID),
    "min_p": number(0, 1), "presence_penalty": number(-2, 2), "frequency_penalty": number(-2, 2),
    "repetition_penalty": number(0.01, 10), "seed": integer(-(2**63), 2**63 - 1), "stop": "stops",
    "stop_token_ids": list_of(integer(0, LARGEST_ID), 64), "include_stop_str_in_output": flag, "ignore_eos": flag,
    "skip_special_tokens": flag, "logit_bias": "biases", "response_format": "response_format",
    "structured_outputs": "structured", **dict.fromkeys(_WITHOUT_EFFECT, dropped),
}  # fmt: skip
_CONVERSATION: dict[str, Any] = {
    "model": "model", "messages": "messages", "tools": "tools", "add_generation_prompt": flag, "continue_final_message": flag,
    "add_special_tokens": flag, "chat_template_kwargs": "template_arguments",
}  # fmt: skip
_TOKENIZE = {"model": "model", "prompt": "written", "add_special_tokens": flag, "return_token_strs": flag}
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        **_SAMPLING, **_CONVERSATION, "max_completion_tokens": "length", "logprobs": flag,
        "top_logprobs": integer(0, MOST_LOGPROBS),
        "tool_choice": "tool_choice", "parallel_tool_calls": flag, "include_reasoning": flag,
        "reasoning_effort": one_of("none", "minimal", "low", "medium", "high"),
    },
    "/v1/completions": {
        **_SAMPLING, "prompt": "prompt", "logprobs": integer(0, MOST_LOGPROBS), "add_special_tokens": flag, "echo": only(False),
        "best_of": only(1), "suffix": only(""),
    },
    "/tokenize": {**_TOKENIZE, **_CONVERSATION},
    "/detokenize": {"model": "model", "tokens": "tokens"},
}  # fmt: skip
"""The supported POST routes. For each route: its fields and their checks."""
NEEDED = {
    "/v1/chat/completions": ("messages",),
    "/v1/completions": ("prompt",),
    "/tokenize": ("messages", "prompt"),
    "/detokenize": ("tokens",),
}
"""For each route: a request must have one of these fields."""
