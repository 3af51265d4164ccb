"""The engine as an HTTP server: vLLM's application with our engine, behind our guard, over real sockets."""

import asyncio
import http.client
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_loop import OnLoop
from ports import free_port
from processes import engine_processes
from ros_rig import rig

from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.engine.base import Generation
from robobrain_ros.engine.embedded import compat
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.http.front import HttpFront
from robobrain_ros.engine.http.guard import PATHS, RETRY_AFTER, Guard, ServerState
from robobrain_ros.engine.http.options import ServerOptions
from robobrain_ros.engine.http.requests import RequestLimits
from robobrain_ros.engine.http.server import HTTP_PRIORITY, ServedEngine
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.engine.remote.data_url import data_url
from robobrain_ros.engine.supervisor import Supervisor, Timings

START = 300.0
"""Timeout in seconds for a start of vLLM on a busy machine."""
KEY = "sk-robot-91c2"
ADDRESSES = count(2)
NAME = "tabletop-demo"
ALIAS = "RoboBrain2.0-32B-nvidia-flagos"
LIMITS = RequestLimits(max_model_len=100, max_answers=2, max_images=1, max_pixels=10**6, max_body=10**6, names=(NAME,))

pytestmark = pytest.mark.timeout(START + 60)


class Served(OnLoop):
    """A supervised engine with an HTTP server on its own event loop."""

    def __init__(self, key_file: str) -> None:
        super().__init__()
        self.port = free_port()
        self.address = "127.0.0.1"
        server = ServerOptions(
            enabled=True, port=self.port, key_file=key_file, max_requests=2, max_body_mib=1, model_names=(ALIAS,)
        )
        self.options = EngineOptions.of(model=str(DEMO_MODEL), max_num_seqs=4)
        self.front = HttpFront(server, self.options)
        self.state = self.front.state
        self.engine: ServedEngine | None = None
        self.supervisor: Supervisor = self.wait(self._make())
        self.wait(self.supervisor.start(lambda progress: None), START)

    async def _make(self) -> Supervisor:
        return Supervisor(self._engine, max_queued=8, max_running=4, timings=Timings(health_interval=0.2, first_back_off=0.1))

    def _engine(self) -> ServedEngine:
        self.engine = ServedEngine(EmbeddedEngine(self.options), self.front)
        return self.engine

    def until(self, condition: Callable[[], bool], limit: float = 60.0) -> None:
        end = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < end, self.state
            time.sleep(0.05)

    def request(self, method: str, path: str, body: Any = None, key: str = KEY, **headers: str) -> tuple[int, Any]:
        """Send a request as curl does. Return the status and the JSON or text."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60, source_address=(self.address, 0))
        if key:
            headers["Authorization"] = f"Bearer {key}"
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
            text = response.read().decode()
            return response.status, json.loads(text) if text.startswith(("{", "[")) else text
        finally:
            connection.close()

    def chat(self, **extra: Any) -> tuple[int, Any]:
        body = {"model": NAME, "messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 4, "temperature": 0}
        return self.request("POST", "/v1/chat/completions", body | extra)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    file: Path = tmp_path_factory.mktemp("secret") / "key"
    file.write_text(KEY)
    file.chmod(0o600)
    it = Served(str(file))
    try:
        it.until(lambda: it.state.state == "open")
        yield it
    finally:
        it.wait(it.supervisor.close())
        it.wait(it.front.close())
        assert it.state.state == "closed"
        with pytest.raises(ConnectionRefusedError):
            it.request("GET", "/health")
        it.loop.stop()


@pytest.fixture
def served(running: Served) -> Served:
    """The server, with an own client address for each test, because the server limits the rate of each address."""
    running.address = f"127.0.1.{next(ADDRESSES)}"
    return running


def test_the_openai_client(served: Served) -> None:
    import openai

    client = openai.OpenAI(base_url=served.state.address, api_key=KEY, max_retries=0, timeout=60.0)
    assert [model.id for model in client.models.list().data] == [NAME, ALIAS]
    image = data_url(np.full((224, 280, 3), 90, np.uint8), "png", 95)
    content: Any = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "How many mugs?"}]
    with client.chat.completions.create(
        model=NAME, messages=[{"role": "user", "content": content}], max_tokens=20, temperature=0, stream=True
    ) as stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    wrong = openai.OpenAI(base_url=served.state.address, api_key="wrong", max_retries=0, timeout=60.0)
    with pytest.raises(openai.AuthenticationError, match="requires a key"):
        wrong.models.list()


FLAGRELEASE = """
import openai
openai.api_key = "{key}"
openai.base_url = "http://127.0.0.1:{port}/v1/"
model = "RoboBrain2.0-32B-nvidia-flagos"
messages = [
    {{"role": "system", "content": "You are a helpful assistant."}},
    {{"role": "user", "content": "What can a gripper hold?"}},
]
response = openai.chat.completions.create(
    model=model, messages=messages, temperature=0.7, top_p=0.95, max_tokens=20, stream=False
)
for item in response.choices:
    print(item.message.role)
"""
"""In the form of the scripts on FlagRelease's pages."""


def test_the_script_of_flagrelease(served: Served) -> None:
    script = FLAGRELEASE.format(key=KEY, port=served.port)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout) == (0, "assistant\n"), ran.stderr


@pytest.mark.parametrize(
    "extra",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"minItems": 10**9, "items": {}}}}},
        {"structured_outputs": {"json": {"type": "string", "minLength": 10**9}}},
        {"structured_outputs": {"regex": "(a{1,4000}){1,4000}"}},
        {"structured_outputs": {"regex": "(?=a)b"}},
        {"structured_outputs": {"json": {"type": "integer", "multipleOf": 999_983}}},
        {"messages": [{"role": "assistant", "tool_calls": "[[["}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]},
        {"messages": [{"role": "user", "content": "x" * 200_000}]},
        {"logit_bias": {"2147483647": 1}},
        {"continue_final_message": True},
        {"n": 10**9},
    ],
)
def test_bad_requests_get_400_and_cost_the_robot_nothing(served: Served, extra: dict[str, Any]) -> None:
    status, answer = served.chat(**extra)
    assert status == 400, answer
    assert answer["error"]["message"]
    assert served.engine is not None
    assert served.engine.health().state == "ready"


def test_a_required_call_keeps_to_its_schema(served: Served) -> None:
    count = {"type": "integer", "minimum": 1, "maximum": 9}
    properties = {"properties": {"count": count}, "required": ["count"], "additionalProperties": False}
    tools = [{"type": "function", "function": {"name": "take", "parameters": {"type": "object"} | properties, "strict": True}}]
    for choice in ("required", {"type": "function", "function": {"name": "take"}}):
        status, answer = served.chat(tools=tools, tool_choice=choice, max_tokens=60)
        assert status == 200, answer
        (call,) = answer["choices"][0]["message"]["tool_calls"]
        assert call["function"]["name"] == "take"
        assert json.loads(call["function"]["arguments"])["count"] in range(1, 10)


def test_constraints_are_validated_in_another_thread_and_once(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM validates a constraint on the event loop, which the robot's requests share."""
    known = compat.validated_constraints()
    validate, threads = known._validate, []

    def recorded(*arguments: Any, **named: Any) -> None:
        threads.append(threading.current_thread())
        validate(*arguments, **named)

    monkeypatch.setattr(known, "_validate", recorded)
    loop = served.wait(_thread())
    for given in ({"json": {"type": "integer", "maximum": 7}}, {"regex": "a|b"}, {"choice": ["a", "b"]}, {"json_object": True}):
        threads.clear()
        assert served.chat(structured_outputs=given)[0] == 200
        assert len(threads) == 1
        assert loop not in threads


async def _thread() -> threading.Thread:
    return threading.current_thread()


def test_every_route_of_the_application_asks_for_the_key(served: Served) -> None:
    assert served.engine is not None
    app = served.wait(compat.build_http_app(served.engine._inner.vllm, str(DEMO_MODEL), [NAME]))
    paths = {route.path for route in app.routes if hasattr(route, "path")} | {"/docs", "/metrics", "/tokenize", "/pause", "/"}
    assert len(paths) > 10
    for path in paths:
        for method in ("GET", "POST", "OPTIONS"):
            status, answer = served.request(method, path, {}, key="")
            assert status == 401, (method, path)
            assert answer["error"]["type"] == "authentication_error"
    for key in ("wrong", KEY[:-1], f"{KEY}x"):
        assert served.request("GET", "/v1/models", key=key)[0] == 401


def test_only_known_routes_are_served(served: Served) -> None:
    for path in PATHS["GET"]:
        assert served.request("GET", path)[0] == 200
    assert served.request("POST", "/tokenize", {"model": NAME, "prompt": "Hello"})[0] == 200
    for path in ("/v1/load_lora_adapter", "/pause", "/sleep", "/collective_rpc", "/start_profile", "/reset_prefix_cache",
                 "/invocations", "/scale_elastic_ep", "/v1/responses", "/docs", "/openapi.json"):  # fmt: skip
        assert served.request("POST", path, {})[0] == 404
    assert served.request("GET", "/v1/chat/completions")[0] == 405
    assert served.request("POST", "/v1/chat/completions", b"{")[0] in (400, 422)
    assert served.chat(model="other")[0] == 404


def test_an_upgrade_to_a_websocket_is_rejected(served: Served) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = "a" * 22 + "=="
    assert served.request("GET", "/v1/realtime", key="", **upgrade)[0] == 401
    assert served.request("GET", "/v1/realtime", **upgrade)[0] == 404


def test_large_bodies_are_rejected_before_and_while_they_arrive(served: Served) -> None:
    large = b"x" * (1 << 20) + b"x"
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    connection.putrequest("POST", "/v1/chat/completions")
    for name, value in (("Authorization", f"Bearer {KEY}"), ("Content-Length", str(len(large)))):
        connection.putheader(name, value)
    connection.endheaders()  # The length alone causes the rejection; no byte of the body has been sent.
    assert connection.getresponse().status == 413
    connection.close()
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", iter([large[: 1 << 19]] * 3), headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_http_requests_have_a_lower_priority_than_ros_requests(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert served.engine is not None
    engine = served.engine._inner.vllm
    seen: list[int] = []
    add_request = engine.add_request

    async def watched(*arguments: Any, **named: Any) -> Any:
        seen.append(named["priority"])
        return await add_request(*arguments, **named)

    monkeypatch.setattr(engine, "add_request", watched)
    assert served.chat(priority=-5)[0] == 200
    body = {"model": NAME, "prompt": ["a", "b", "c"], "max_tokens": 2}
    assert served.request("POST", "/v1/completions", body, **{"X-Vllm-Priority": "-7"})[0] == 200

    async def ask() -> None:
        async with aclosing(served.supervisor.generate(Generation("robot", "Hello?", [], 2))) as stream:
            assert [delta async for delta in stream]

    served.wait(ask())
    assert seen == [HTTP_PRIORITY] * 4 + [0]
    status, answer = served.chat(n=3, temperature=1)
    assert status == 400
    assert "at most 2 are allowed" in str(answer)


def test_requests_above_the_limit_get_429(served: Served) -> None:
    body = {"model": NAME, "messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 4000, "ignore_eos": True}
    connections = []
    for _ in range(2):
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body | {"stream": True}), headers)
        response = connection.getresponse()
        assert response.status == 200
        response.read(1)
        connections.append((connection, response))
    status, answer = served.chat()
    assert (status, answer["error"]["type"]) == (429, "rate_limit_error")
    assert served.state.refused == 1
    assert served.request("GET", "/v1/models")[0] == 200
    for connection, response in connections:
        response.close()
        connection.close()
    served.until(lambda: served.state.running == 0)
    assert served.engine is not None
    served.until(lambda: not served.engine._inner.vllm.output_processor.request_states)  # type: ignore[union-attr]
    assert served.chat()[0] == 200


def test_tools_of_chat_programs_are_accepted(served: Served) -> None:
    """AnythingLLM sends tools with each message. The chat template of RoboBrain 2.0 omits them."""
    parameters = {"type": "object", "properties": {"query": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "search", "description": "Search.", "parameters": parameters}}
    status, answer = served.chat(tools=[tool])
    assert status == 200, answer
    assert answer["choices"][0]["message"]["role"] == "assistant"


def test_the_process_still_logs_when_the_server_is_open(served: Served) -> None:
    """vLLM's application sets the root logger's level."""
    assert logging.getLogger().level == logging.WARNING


@pytest.mark.thorough
def test_a_killed_engine_answers_503_and_comes_back(served: Served) -> None:
    """The port stays open. Requests, including the one in progress, get the reason and a time to wait."""
    body = {"model": NAME, "messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 8000, "ignore_eos": True}
    with ThreadPoolExecutor(1) as pool:
        inside = pool.submit(served.request, "POST", "/v1/chat/completions", body)
        served.until(lambda: served.state.running == 1)
        first = served.engine
        (process,) = engine_processes("EngineCore")
        process.kill()
        status, answer = inside.result(60)
        assert (status, answer["error"]["type"]) == (503, "server_error")
    seen = set()
    while served.state.state != "open" or served.engine is first:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {KEY}"})
        response = connection.getresponse()
        seen.add(response.status)
        if response.status == 503:
            assert response.getheader("Retry-After") == str(RETRY_AFTER)
            assert "The engine is not ready: " in json.loads(response.read())["error"]["message"]
        connection.close()
        time.sleep(0.2)
    assert seen <= {200, 503}
    assert 503 in seen
    assert served.chat()[0] == 200


def test_a_port_in_use_leaves_the_robot_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is needed, because the application does not matter in this test."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    monkeypatch.setattr("robobrain_ros.engine.http.front._AGAIN", 0.05)

    async def work() -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            front = HttpFront(ServerOptions(enabled=True, port=port), EngineOptions(model="x"))
            front.open()
            while front.state.state != "failed":
                await asyncio.sleep(0.01)
            assert f"port {port} (Address already in use)" in front.state.message
        while front.state.state != "waiting":
            await asyncio.sleep(0.01)
        front.serve(app, LIMITS, lambda: "")
        assert front.state.state == "open"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"204"
        writer.write(b"GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        while not (line := await reader.readline()).startswith(b"HTTP"):
            assert line
        assert line.split()[1] == b"403"
        writer.close()
        await front.close()
        assert front.state.state == "closed"

    asyncio.run(asyncio.wait_for(work(), 60.0))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1:9010"}, 200),
        ({"host": "localhost"}, 200),
        ({"host": "[::1]:9010", "origin": "http://localhost:3000"}, 200),
        ({"host": "robot.example"}, 403),
        ({}, 403),
        ({"host": "127.0.0.1", "origin": "https://evil.example"}, 403),
        ({"host": "127.0.0.1", "origin": "null"}, 403),
    ],
)
def test_without_a_key_only_this_machine_is_let_through(headers: dict[str, str], status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    guard = Guard(key="", max_requests=1, max_body=10, state=ServerState())
    guard.serve(app, LIMITS, lambda: "")
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(guard({"type": "http", "method": "GET", "path": "/health", "headers": pairs}, receive, send))
    assert sent[0]["status"] == status


def test_an_open_address_without_a_key_is_rejected_before_anything_loads() -> None:
    with rig(None, autostart=False, openai_server__enabled=True, openai_server__host="0.0.0.0") as it:
        from lifecycle_msgs.msg import Transition

        assert not it.transition(Transition.TRANSITION_CONFIGURE)
        assert it.node.model.health().state == "stopped"
