"""Allowed content of HTTP request bodies, without an engine. test_engine_server.py tests that a real server applies it."""

import base64
import http.server
import io
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image
from plan_requests import random_request

from robobrain_ros.core.grammars import coordinate_pattern
from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.plans.checks import MOST_SKILLS
from robobrain_ros.core.plans.request import Place, PlanRequest, Robot, Skill
from robobrain_ros.core.plans.schema import plan_form
from robobrain_ros.core.profiles import profile_for
from robobrain_ros.core.query import Task
from robobrain_ros.engine.http.checks import RequestError
from robobrain_ros.engine.http.requests import ROUTES, RequestLimits, checked_body
from robobrain_ros.engine.http.schemas import check_regex, check_schema, check_structured_outputs

LIMITS = RequestLimits(
    max_model_len=1000, max_answers=2, max_images=2, max_pixels=100_000, max_body=1 << 20, names=("m", "alias")
)
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
CHAIN = {"$ref": "#/$defs/0", "$defs": {str(at): {"$ref": f"#/$defs/{at + 1}"} for at in range(2000)} | {"2000": True}}
BIG = {"type": "array", "minItems": 10**9, "items": {"type": "integer"}}


def encoded(width: int, height: int, kind: str = "PNG", **options: Any) -> bytes:
    return _saved(Image.new("RGB", (width, height), (200, 10, 10)), kind, **options)


def _saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def as_url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def with_image(url: Any, count: int = 1) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}}] * count
    return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "What is this?"}]}]}


def said(**changes: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hello?"}]} | changes


def check(path: str, body: Any, limits: RequestLimits = LIMITS) -> Any:
    return json.loads(checked_body(path, body if isinstance(body, bytes) else json.dumps(body).encode(), limits).content)


def tool(parameters: Any) -> list[Any]:
    return [{"type": "function", "function": {"name": "f", "parameters": parameters}}]


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        (said(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": BIG}}), "schema", "minItems"),
        (said(response_format={"type": "structural_tag"}), "response_format.type", "json_schema"),
        (said(response_format={"type": "regex"}), "response_format.type", "json_schema"),
        (said(structured_outputs={"json": BIG}), "structured_outputs.json", "minItems"),
        (said(structured_outputs={"json": json.dumps(BIG)}), "structured_outputs.json", "minItems"),
        (said(structured_outputs={"regex": "((a{1,90}){1,90}){1,90}"}), "structured_outputs.regex", "repetitions"),
        (said(structured_outputs={"grammar": "root ::= root"}), "structured_outputs.grammar", "not supported"),
        (said(structured_outputs={"structural_tag": "{}"}), "structured_outputs.structural_tag", "not supported"),
        (said(structured_outputs={"choice": ["x"] * 10_000}), "structured_outputs.choice", "200 strings"),
        (said(structured_outputs={"choice": ["x" * 10_000]}), "structured_outputs.choice", "1000 characters"),
        (said(tools=tool(BIG), tool_choice="required"), "tools[0].function.parameters", "minItems"),
        (said(tools=tool(BIG), tool_choice={"type": "function", "function": {"name": "f"}}), "tools[0]", "minItems"),
        (said(tools=tool({"description": "x" * 20_000})), "tools", "characters"),
        (said(guided_json=BIG), "guided_json", "not supported"),
        (said(extra_body={"guided_regex": "a"}), "extra_body", "not supported"),
        (said(chat_template="{{ 1 }}"), "chat_template", "not supported"),
        (said(mm_processor_kwargs={"max_pixels": 10**9}), "mm_processor_kwargs", "not supported"),
        (said(prompt_logprobs=20), "prompt_logprobs", "not supported"),
        (said(n=10**9), "n", "at most 2 are allowed"),
        (said(n=0), "n", "from 1 to 2"),
        (said(max_tokens=10**9), "max_tokens", "from 0 to 1000"),
        (said(max_tokens="many"), "max_tokens", "a whole number"),
        (said(temperature=1e300), "temperature", "a number"),
        (said(top_logprobs=10**6), "top_logprobs", "from 0 to 20"),
        (said(stop=["x"] * 1000), "stop", "at most 16"),
        (said(stop="x" * 1000), "stop", "at most 256"),
        (said(logit_bias={str(number): 1 for number in range(1000)}), "logit_bias", "at most 300"),
        (said(logit_bias={"x": 1}), "logit_bias", "not the id"),
        (said(model="other"), "model", "available: m, alias"),
        (said(messages=[]), "messages", "a list of messages"),
        (said(messages=[{"role": "user", "content": "x"}] * 257), "messages", "at most 256"),
        (said(messages=[{"role": "user", "content": "x" * 10_000}] * 2), "messages[1].content", "16 for each"),
        (said(messages=[{"role": "robot", "content": "x"}]), "messages[0].role", "one of system"),
        (said(messages=[{"role": "user"}]), "messages[0].content", "expected"),
        (said(messages=["x"]), "messages[0]", "an object"),
        (said(messages=[{"role": "user", "content": "\ud800"}]), "messages[0].content", "surrogate"),
        (said(response_format={"type": "json_schema", "json_schema": {"schema": {"enum": ["\ud800"]}}}), "", "surrogate"),
        (said(structured_outputs={"choice": ["\ud800"]}), "", "surrogate"),
        (said(structured_outputs={"regex": "\ud800"}), "", "surrogate"),
        (said(tools=tool({"\ud800": 1})), "", "surrogate"),
        (said(structured_outputs={"json": CHAIN}), "structured_outputs.json", "references that lead to one another"),
        (said(structured_outputs={"json": {"type": {"a": 1}}}), "structured_outputs.json", "known types"),
        (said(structured_outputs={"json": {"required": 5}}), "structured_outputs.json", "list of strings"),
        (said(structured_outputs={"json": {"enum": []}}), "structured_outputs.json", "1 to 5000"),
        (said(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "image_url", "an image is expected"),
        ({"model": "m"}, "messages", "missing or empty"),
        (said(messages=[{"role": "assistant", "tool_calls": "[[["}]), "messages[0].tool_calls", "a list"),
        (
            said(messages=[{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[[["}}]}]),
            "messages[0].tool_calls[0].function.arguments",
            "not JSON",
        ),
        (
            said(messages=[{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[" * 9000}}]}]),
            "messages[0].tool_calls[0].function.arguments",
            "not JSON",
        ),
        *[
            (said(messages=[{"role": "user", "content": [{"type": kind, kind: {"url": "file:///etc/passwd"}}]}]),
             "messages[0].content[0].type", "not supported")
            for kind in ("video_url", "audio_url", "input_audio", "file", "image_embeds")
        ],
    ],
)  # fmt: skip
def test_wrong_fields_of_a_chat_are_rejected(body: Any, field: str, reason: str) -> None:
    with pytest.raises(RequestError) as caught:
        check(CHAT, body)
    assert field in caught.value.field
    assert reason in str(caught.value)
    assert caught.value.status == (404 if field == "model" else 400)


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        (CHAT, b"{", "not JSON"),
        (CHAT, b"[]", "not a JSON object"),
        (CHAT, b"", "not JSON"),
        (CHAT, b'{"model": "\xff"}', "not UTF-8"),
        (CHAT, b'{"temperature": NaN}', "NaN is not a number"),
        (CHAT, b'{"temperature": 1e400}', "a number"),
        (CHAT, b"[" * 90_000, "not JSON"),
        (CHAT, b'{"messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "not JSON"),
        (CHAT, b'{"seed": ' + b"9" * 100_000 + b"}", "not JSON"),
        (CHAT, b'{"messages": [' + b"{}," * 100_000 + b"{}]}", "JSON values"),
        (TEXT, {"prompt": "x" * 20_000}, "16000 characters"),
        (TEXT, {"prompt": [1] * 1001}, "at most 1000"),
        (TEXT, {"prompt": [[1] * 600, [1] * 600]}, "more than 1000 tokens"),
        (TEXT, {"prompt": ["x"] * 17}, "at most 16"),
        (TEXT, {"prompt": [-1]}, "a whole number"),
        (TEXT, {"prompt": "x", "best_of": 9}, "only 1"),
        (TEXT, {"prompt": "x", "echo": True}, "only false"),
        (TEXT, {"prompt_embeds": "AAAA"}, "not supported"),
        ("/tokenize", {"prompt": "x" * 20_000}, "16000 characters"),
        ("/detokenize", {"tokens": [1] * 1001}, "at most 1000"),
        ("/detokenize", {"tokens": [2**40]}, "a whole number"),
    ],
)
def test_wrong_fields_of_other_bodies_are_rejected(path: str, body: Any, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        check(path, body)


def test_the_fields_that_clients_send_are_passed_on() -> None:
    body = said(
        model="alias", temperature=0.7, top_p=0.95, stream=False, stop=None, user="x", priority=-5, n=1, max_tokens=16,
        tools=tool(BIG), tool_choice="auto", seed=3, logit_bias={"5": -1}, response_format={"type": "text"},
    )  # fmt: skip
    passed = check(CHAT, body)
    assert {name: passed.get(name) for name in ("stop", "user", "priority")} == dict.fromkeys(("stop", "user", "priority"))
    for name in ("model", "messages", "temperature", "tools", "seed", "logit_bias"):
        assert passed[name] == body[name]
    assert check(TEXT, {"prompt": "x", "best_of": 1, "echo": False, "suffix": ""}) == {"prompt": "x"}
    assert set(ROUTES) == {CHAT, TEXT, "/tokenize", "/detokenize"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (as_url(_saved(Image.new("1", (9000, 9000)))), "more than 100000 pixels .*9000x9000"),
        (as_url(encoded(400, 240)[:200]), "cannot be decoded"),
        (as_url(encoded(400, 240, "JPEG")[:700]), "cannot be decoded"),
        (as_url(encoded(20_001, 1)), "200 times"),
        (as_url(b"GIF89a"), "cannot be read"),
        (as_url(encoded(64, 64, "GIF")), "cannot be read"),
        (as_url(encoded(64, 64, "TIFF")), "cannot be read"),
        ("data:image/png;base64,!!!!", "base64"),
        ("data:image/png,AAAA", "not of the form"),
        ("file:///etc/passwd", "file: URLs are not supported"),
        ("FTP://host/image.png", "ftp: URLs are not supported"),
        ("/etc/passwd", "not supported"),
        ("", "not supported"),
        (7, "a string"),
    ],
)
def test_images_are_measured_before_they_are_decoded(content: Any, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "9000x9000" in reason:
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("it was decoded"))
    with pytest.raises(RequestError, match=reason) as caught:
        check(CHAT, with_image(content))
    assert caught.value.field == "messages[0].content[0].image_url.url"


@pytest.mark.parametrize(
    "head", ["DATA:image/png;base64", "data:image/PNG;Base64", "data:;base64", "data:image/png;name=a;base64"]
)
def test_a_data_url_reaches_the_engine_in_one_form(head: str) -> None:
    """vLLM supports fewer forms of data URLs than RFC 2397, and answers the others with a server error."""
    url = as_url(encoded(64, 48))
    data = url.partition(",")[2]
    for written in (data, f"{data[:8]}\r\n {data[8:]}\n", data.replace("=", "%3D").replace("+", "%2b")):
        assert check(CHAT, with_image(f"{head},{written}")) == with_image(url)
    part = {"type": "image_url", "image_url": f"{head},{data}"}
    passed = check(CHAT, {"messages": [{"role": "user", "content": [part]}]})
    assert passed["messages"][0]["content"] == [{"type": "image_url", "image_url": {"url": url}}]


@pytest.mark.parametrize("kind", ["video_url", "audio_url", "input_audio", "image_pil", "image_embeds", "input_image", "image"])
def test_other_media_than_images_by_url_are_rejected(kind: str) -> None:
    part = {"type": kind, kind: {"url": "http://127.0.0.1:1/"}, "image_url": {"url": as_url(encoded(8, 8))}}
    with pytest.raises(RequestError, match="is not supported") as caught:
        check(CHAT, {"messages": [{"role": "user", "content": [part]}]})
    assert caught.value.field == "messages[0].content[0].type"


def test_images_together_are_bounded() -> None:
    url = as_url(encoded(200, 300))
    assert check(CHAT, with_image(url)) == with_image(url)
    with pytest.raises(RequestError, match="more than 100000 pixels"):
        check(CHAT, with_image(url, 2))
    with pytest.raises(RequestError, match="more than 2 images"):
        check(CHAT, with_image(as_url(encoded(10, 10)), 3))
    for kind in ("JPEG", "WEBP"):
        check(CHAT, with_image(as_url(encoded(64, 64, kind))))


class Hosts(http.server.BaseHTTPRequestHandler):
    """A server with an image, a redirect to the image, and an endless image."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/image")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(encoded(64, 48) if self.path == "/image" else b"x" * (2 << 20))

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def host() -> Iterator[int]:
    Hosts.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hosts)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_images_are_fetched_from_named_hosts_only(host: int) -> None:
    url = f"http://127.0.0.1:{host}/image"
    for foreign in (url, f"http://localhost:{host}/image", f"http://127.0.0.1@localhost:{host}/image"):
        with pytest.raises(RequestError, match="not fetched from this URL"):
            check(CHAT, with_image(foreign))
    assert Hosts.asked == []
    allowed = replace(LIMITS, domains=("127.0.0.1",))
    assert check(CHAT, with_image(url), allowed) == with_image(as_url(encoded(64, 48)))
    for path in ("redirect", "endless"):
        with pytest.raises(RequestError, match="could not be fetched"):
            check(CHAT, with_image(f"http://127.0.0.1:{host}/{path}"), allowed)
    for broken in (
        "http://127.0.0.1:port/image",
        f"http://127.0.0.1:{host}/an image",
        f"http://127.0.0.1:{host}/image\r\nHost: x",
        f"https://127.0.0.1:{host}/image",
        f"http://127.0.0.1\n:{host}/image",
    ):
        with pytest.raises(RequestError, match="could not be fetched"):
            check(CHAT, with_image(broken), allowed)
    assert Hosts.asked == ["/image", "/redirect", "/endless"]
    with pytest.raises(RequestError, match="not fetched from this URL"):
        check(CHAT, with_image(f"http://localhost:{host}/image"), allowed)
    for foreign in (f"http://127.1:{host}/", f"http://[::ffff:127.0.0.1]:{host}/", f"http://2130706433:{host}/", "http://[::1"):
        with pytest.raises(RequestError, match=r"not fetched from this URL|Invalid IPv6 URL"):
            check(CHAT, with_image(foreign), allowed)
    assert len(Hosts.asked) == 3
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(RequestError) as caught:
            check(CHAT, with_image(f"http://127.0.0.1:{closed.getsockname()[1]}/"), allowed)
    assert "refused" not in str(caught.value).lower(), "whether a port is open is nobody's business"


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "string", "minLength": 10**9}, "minLength"),
        ({"type": "string", "pattern": "(a{1,4000}){1,4000}"}, "repetitions"),
        ({"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}, "refers to itself"),
        ({"items": {"$ref": "#"}}, "refers to itself"),
        ({"$ref": "https://example.org/schema.json"}, "is not a definition"),
        ({"$ref": "#/properties/a"}, "is not a definition"),
        ({"allOf": [{"type": "string"}, {"minLength": 3}]}, "only one entry"),
        ({"patternProperties": {"a": {}}}, "patternProperties"),
        ({"not": {}}, "'not'"),
        ({"enum": list(range(6000))}, "5000 values"),
        ({"type": "integer", "multipleOf": 1e-9}, "from 0.000001"),
        ({"type": "integer", "maximum": 1e300}, "a number up to"),
        ({"type": "string", "format": "regex"}, "known formats"),
        ({"properties": {f"p{number}": {"items": {}, "minItems": 9000} for number in range(20)}}, "all counts"),
        ({"properties": {f"p{number}": {"type": "integer"} for number in range(3000)}}, "3000 subschemas"),
        ({"properties": {"a": 5}}, "a schema is an object"),
        ([], "a JSON schema is an object"),
        ("{", "Expecting"),
    ],
)
def test_schemas_that_cost_too_much_are_rejected(schema: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_schema(schema)


def strings(count: int, *required: str, name: str = "p") -> dict[str, Any]:
    """Return the schema of an object with a number of properties."""
    properties = {f"{name}{number}": {"type": "string"} for number in range(count)}
    return {"type": "object", "properties": properties, "required": list(required)}


WIDE = "256 optional properties and alternatives"
OBJECTS = [strings(4, name=f"p{number}_") for number in range(60)]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (strings(2900), WIDE),
        (strings(256), WIDE),
        ({"properties": {f"p{number}": {"type": "string", "pattern": "ab?"} for number in range(300)}}, WIDE),
        ({"type": "array", "items": {"anyOf": OBJECTS}}, WIDE),
        ({"anyOf": [{"anyOf": OBJECTS[:30]}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": OBJECTS[30:]}}}, WIDE),
        (strings(60) | {"anyOf": [{"required": [f"p{number}"]} for number in range(5)]}, WIDE),
        (strings(60, *strings(60)["properties"]) | {"anyOf": OBJECTS[:50]}, "3000 subschemas"),
        (
            strings(1, "p0") | {"anyOf": [{"$ref": "#/$defs/a"}] * 30, "$defs": {"a": strings(200, *strings(200)["properties"])}},
            "3000 subschemas",
        ),
    ],
)
def test_schemas_with_too_much_at_one_place_are_rejected(schema: Any, reason: str) -> None:
    """The engine compares all of it with the vocabulary in one step, which the robot's requests share."""
    with pytest.raises(ValueError, match=reason):
        check_schema(schema)


def test_schemas_within_the_limits_are_served() -> None:
    wide = strings(255)
    check_schema(wide)
    check_schema(strings(2900, *strings(2900)["properties"]))
    check_schema({"type": "object", "properties": {f"p{number}": wide for number in range(10)}})
    check_schema(strings(20) | {"anyOf": [{"required": [f"p{number}"]} for number in range(12)]})
    check_schema({"type": "array", "items": {"anyOf": OBJECTS[:50]}})


def test_the_largest_plan_schemas_are_served() -> None:
    """A node whose engine is the server of another node sends them."""
    kinds = {"type": "integer"}, {"type": "string", "format": "object"}, {"type": "number", "minimum": 0, "maximum": 1}
    skills = []
    for number in range(MOST_SKILLS):
        fields = {f"{name}{number}": kind for name, kind in zip("abc", kinds, strict=True)}
        skills.append(
            Skill(f"skill{number}", "", json.dumps({"type": "object", "properties": fields, "required": [f"a{number}"]}))
        )
    scene = (Place("table", ("mug", "cup")),)
    check_schema(plan_form(PlanRequest((Robot("arm", skills=tuple(skills)),), scene, max_steps=8), 100_000).text)


def test_schemas_of_programs_are_served() -> None:
    """The schemas are those that pydantic generates."""
    check_schema(
        {
            "$defs": {"Step": {"title": "Step", "type": "object", "properties": {"text": {"type": "string"}}}},
            "title": "Plan",
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "steps": {"type": "array", "items": {"$ref": "#/$defs/Step"}, "maxItems": 8},
                "first": {"allOf": [{"$ref": "#/$defs/Step"}], "default": None},
                "note": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
            },
            "required": ["steps"],
        }
    )


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_the_nodes_own_patterns_are_served(family: str) -> None:
    """A node whose engine is the server of another node sends these patterns."""
    for task in (Task.POINT, Task.TRAJECTORY, Task.GROUND):
        check_regex(coordinate_pattern(task, profile_for(family), FittedSize(1920, 1080, 1904, 1064)))


@pytest.mark.parametrize("seed", range(5))
def test_the_nodes_own_plan_schemas_are_served(seed: int) -> None:
    check_schema(plan_form(random_request(seed), 100_000).text)


def test_constraints_are_checked_again_before_the_engine() -> None:
    """The check applies to constraints from every route."""

    class Given:
        json = regex = choice = grammar = structural_tag = None

    check_structured_outputs(None)
    check_structured_outputs(Given())
    costly = {"json": BIG, "regex": "a{99999}", "choice": ["x"] * 999, "grammar": "x", "structural_tag": "{}"}
    for name, value in costly.items():
        given = Given()
        setattr(given, name, value)
        with pytest.raises(ValueError, match=name):
            check_structured_outputs(given)
