"""The remote engine with servers that misbehave, over real sockets: each fault has its outcome, and no outcome shows the key."""

import asyncio
import base64
import json
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from aiohttp import web
from openai_server import MODEL, certificate, serving, sse
from remote_rig import INTERVALS, KEY, ask, drop, fault, html, options, question, redirect, refusing, run, started, text, within

from robobrain_ros.core.profiles import PROFILES, check_origin
from robobrain_ros.engine.base import Constraint, Generation, TokenChoice
from robobrain_ros.engine.keys import read_key
from robobrain_ros.engine.options import CELLS, EngineOptions
from robobrain_ros.engine.remote.data_url import data_url
from robobrain_ros.engine.remote.engine import RemoteEngine
from robobrain_ros.engine.supervisor import Supervisor, Timings
from robobrain_ros.errors import BadImageError, BadRequestError, EngineConfigError, EngineFailedError, RequestTimeoutError


def test_text_counts_and_what_is_asked() -> None:
    async def work() -> None:
        async with serving() as server, started(server.url) as engine:
            generation = question(
                assistant_prefix="<answer>", stop=("</answer>",), constraint=Constraint(json_schema='{"type": "object"}')
            )
            deltas = await ask(engine, generation)
            assert text(deltas) == "[(10, 20)]"
            assert [delta.finish_reason for delta in deltas] == ["", "", "stop"]
            assert sum(delta.tokens for delta in deltas) == 2
            assert deltas[-1].prompt_tokens == 7
            (body,) = server.bodies
            user, assistant = body["messages"]
            assert [part["type"] for part in user["content"]] == ["image_url", "text"]
            assert assistant == {"role": "assistant", "content": "<answer>"}
            assert body["continue_final_message"] is True
            assert body["add_generation_prompt"] is False
            assert body["structured_outputs"] == {"json": {"type": "object"}}
            assert (body["temperature"], body["repetition_penalty"], body["stop"]) == (0.0, 1.0, ["</answer>"])
            assert (body["model"], body["max_tokens"]) == (MODEL, 50)
            await ask(engine, question("room", max_tokens=4096))  # More tokens than the context length leaves are requested.
            assert "max_tokens" not in server.bodies[-1]
            await ask(engine, question("b", constraint=Constraint(regex="[0-9]")))
            assert server.bodies[-1]["structured_outputs"] == {"regex": "[0-9]"}
            assert len(server.bodies[-1]["messages"]) == 1
            await ask(engine, question("where?", text_before_images=["Before:"]))
            parts = server.bodies[-1]["messages"][0]["content"]
            assert [part.get("text", part["type"]) for part in parts] == ["Before:", "image_url", "where?"]

    run(work())


def test_max_tokens_is_reduced_to_the_context_also_for_servers_that_reject_more() -> None:
    """The messages are those of vLLM 0.26 to 0.31. Later versions limit the tokens themselves."""

    async def work() -> None:
        async def refuse(request: web.Request) -> web.StreamResponse:
            if not long and "max_tokens" not in server.bodies[-1]:
                return await server.stream(request)
            message = "This model's maximum context length is 4096 tokens. However, you requested 4090 output tokens (...)"
            error = {"message": message, "type": "BadRequestError", "param": "input_tokens", "code": 400}
            return web.json_response({"error": error}, status=400)

        async with serving() as server, started(server.url) as engine:
            long, server.chat = False, refuse
            assert text(await ask(engine, question(max_tokens=4090))) == "[(10, 20)]"
            assert [body.pop("max_tokens", None) for body in server.bodies] == [4090, None]
            assert server.bodies[0] == server.bodies[1]
            long = True  # The prompt alone is too long.
            error = await fault(ask(engine, question("b", max_tokens=4090)))
            assert isinstance(error, BadRequestError)
            assert "maximum context length is 4096" in error.message
            assert len(server.bodies) == 4

    run(work())


def logprobs(*places: dict[str, float]) -> dict[str, Any]:
    """Return log-probabilities in the format of vLLM: the written token comes first."""
    content = []
    for place in places:
        entries = [{"token": token, "logprob": logprob, "bytes": list(token.encode())} for token, logprob in place.items()]
        content.append(entries[0] | {"top_logprobs": entries})
    return {"content": content}


def saying(*choices: dict[str, Any]) -> Any:
    """Return a handler that streams these choices, one for each token, with the text of the token."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = await sse(request)
        for number, choice in enumerate(choices, 1):
            usage = {"prompt_tokens": 7, "completion_tokens": number, "total_tokens": 7 + number}
            whole = {"index": 0, "finish_reason": "stop" if number == len(choices) else None, **choice}
            body = {"object": "chat.completion.chunk", "choices": [whole], "usage": usage}
            await response.write(b"data: " + json.dumps(body).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    return handler


def test_log_probabilities_are_requested_and_read() -> None:
    first = {"delta": {"content": "Yes"}, "logprobs": logprobs({"Yes": -0.1, "No": -2.3, "no": -9999.0})}
    last = {"delta": {"content": "."}, "logprobs": logprobs({".": 0.0})}

    async def work() -> None:
        async with serving(chat=saying(first, last)) as server, started(server.url) as engine:
            deltas = await ask(engine, question(choices=20))
            assert (server.bodies[-1]["logprobs"], server.bodies[-1]["top_logprobs"]) == (True, 20)
            assert [place for delta in deltas for place in delta.choices] == [
                (TokenChoice("Yes", -0.1), TokenChoice("No", -2.3)),
                (TokenChoice(".", 0.0),),
            ]
            await ask(engine, question("plain"))
            assert "logprobs" not in server.bodies[-1]

    run(work())


@pytest.mark.parametrize(
    "strange",
    [
        None,
        5,
        {"content": 7},
        {"content": [None, 3, {}]},
        {"content": [{"token": 1, "logprob": "low", "top_logprobs": "many"}]},
        {"content": [{"token": "Yes", "logprob": 3.0, "top_logprobs": [{"token": "No", "logprob": None}]}]},
    ],
    ids=str,
)
def test_log_probabilities_of_another_form_are_left_out(strange: Any) -> None:
    choice = {"delta": {"content": "Yes"}, "logprobs": strange}

    async def work() -> None:
        async with serving(chat=saying(choice)) as server, started(server.url) as engine:
            deltas = await ask(engine, question(choices=20))
            assert text(deltas) == "Yes"
            assert not any(place for delta in deltas for place in delta.choices)

    run(work())


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_rejects_log_probabilities_answers_without_them(status: int, caplog: pytest.LogCaptureFixture) -> None:
    answer = saying({"delta": {"content": "Yes"}})

    async def chat(request: web.Request) -> web.StreamResponse:
        if "logprobs" in await request.json():
            return web.json_response({"error": {"message": "logprobs is not supported"}}, status=status)
        return await answer(request)

    async def work() -> None:
        async with serving(chat=chat) as server, started(server.url) as engine:
            assert text(await ask(engine, question(choices=20))) == "Yes"
            assert ["logprobs" in body for body in server.bodies] == [True, False]
            assert text(await ask(engine, question("again", choices=20))) == "Yes"
            assert ["logprobs" in body for body in server.bodies] == [True, False, False]

    run(work())
    assert sum("does not report log-probabilities" in record.getMessage() for record in caplog.records) == 1


def test_a_request_that_is_rejected_for_another_reason_is_no_sign_against_log_probabilities() -> None:
    async def work() -> None:
        async with serving(chat=refusing(400, "too long")) as server, started(server.url) as engine:
            error = await fault(ask(engine, question(choices=20)))
            assert isinstance(error, BadRequestError)
            server.chat = None
            await ask(engine, question("again", choices=20))
            assert "logprobs" in server.bodies[-1]

    run(work())


def test_closing_the_stream_and_abort_reach_the_server() -> None:
    async def work() -> None:
        async with serving(hold=asyncio.Event()) as server, started(server.url) as engine:
            async with aclosing(engine.generate(question())) as stream:
                assert (await anext(stream)).text == "[(1"
            await server.until(lambda: server.broken_off == 1)
            async with aclosing(engine.generate(question("b"))) as stream:
                await anext(stream)
                await engine.abort("b")
                assert [delta.finish_reason async for delta in stream] == ["abort"]
            await server.until(lambda: server.broken_off == 2)
            await engine.abort("unknown")
            assert engine.health().running == 0

    run(work())


def test_a_request_to_a_slow_server_is_broken_off_at_the_deadline() -> None:
    async def work() -> None:
        async with serving(hold=asyncio.Event()) as server, started(server.url) as engine:
            late = await fault(within(0.3, engine))
            assert isinstance(late, RequestTimeoutError)
            await server.until(lambda: server.broken_off == 1)

    run(work())


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (html, "answers with text/html instead of application/json"),
        (refusing(401), "rejects the key (401)"),
        (refusing(404), "does not have the requested path"),
        (redirect, "redirects to https://elsewhere.invalid"),
    ],
)
def test_a_permanent_fault_of_a_server_ends_the_start_at_once(models: Any, said: str) -> None:
    async def work() -> None:
        async with serving(models=models) as server:
            found = await fault(RemoteEngine(options(server.url), INTERVALS, check_origin).start(lambda progress: None))
            assert isinstance(found, EngineConfigError)
            assert said in found.message

    run(work())


def test_other_models_are_named() -> None:
    async def work() -> None:
        async with serving() as server:
            found = await fault(
                RemoteEngine(options(server.url, model="Other"), INTERVALS, check_origin).start(lambda progress: None)
            )
            assert f"does not have the model 'Other'. It has: {MODEL}" in found.message

            async def two(request: web.Request) -> web.StreamResponse:
                return web.json_response({"data": [{"id": "one"}, {"id": "two"}, {"id": "adapter", "parent": "one"}]})

            server.models = two
            found = await fault(RemoteEngine(options(server.url), INTERVALS, check_origin).start(lambda progress: None))
            assert "has these models: one, two. Set engine.model to one of them." in found.message
            found = await fault(
                RemoteEngine(options(server.url, model="one"), INTERVALS, check_origin).start(lambda progress: None)
            )
            assert "Set model_profile to the family's profile" in found.message

            async def names(request: web.Request) -> web.StreamResponse:
                return web.json_response({"data": [{"id": "one", "root": "/m"}, {"id": "two", "root": "/m"}]})

            server.models = names  # The server has one model with several names; the first is used.
            found = await fault(RemoteEngine(options(server.url), INTERVALS, check_origin).start(lambda progress: None))
            assert "The model family of 'one'" in found.message

    run(work())


def test_a_certificate_that_does_not_verify(tmp_path: Path) -> None:
    async def work() -> None:
        tls, trusted = certificate(tmp_path)
        async with serving(tls=tls) as server:
            found = await fault(RemoteEngine(options(server.url), INTERVALS, check_origin).start(lambda progress: None))
            assert "is invalid (self-signed certificate" in found.message
            assert "engine.ca_file" in found.message
            plain = await fault(
                RemoteEngine(options(server.url.replace("https", "http")), INTERVALS, check_origin).start(lambda progress: None)
            )
            assert isinstance(plain, EngineConfigError)
            async with started(server.url, ca_file=str(trusted)) as engine:
                assert text(await ask(engine)) == "[(10, 20)]"
            async with started(server.url, verify=False) as engine:
                assert text(await ask(engine)) == "[(10, 20)]"
        async with serving() as server:
            found = await fault(
                RemoteEngine(options(server.url.replace("http", "https")), INTERVALS, check_origin).start(lambda progress: None)
            )
            assert "The TLS connection" in found.message

    run(work())


def test_the_start_waits_for_a_server_and_says_so() -> None:
    async def work() -> None:
        async with serving() as server:
            port = int(server.url.split(":")[2].split("/")[0])
        waiting = asyncio.Event()

        def tell(progress: Any) -> None:
            if "is unreachable (Connect" in progress.message or "Waiting" in progress.message:
                waiting.set()

        engine = RemoteEngine(options(server.url), INTERVALS, check_origin)
        start = asyncio.create_task(engine.start(tell))
        await asyncio.wait_for(waiting.wait(), 30.0)
        async with serving(port=port):
            info = await start
            assert (info.model, info.model_type, info.max_model_len) == (MODEL, "qwen2_5_vl", 4096)
            await engine.close()

    run(work())


def test_the_least_loaded_is_asked_and_another_takes_over() -> None:
    async def work() -> None:
        async with (
            serving(hold=asyncio.Event()) as one,
            serving(hold=asyncio.Event()) as two,
            started(one.url, two.url) as engine,
        ):
            tasks = [asyncio.create_task(ask(engine, question(str(number)))) for number in range(4)]
            await one.until(lambda: one.open == 2)
            await two.until(lambda: two.open == 2)
            for server in (one, two):
                assert server.hold is not None
                server.hold.set()
            await asyncio.gather(*tasks)
            one.chat = refusing(500)
            assert text(await ask(engine)) == "[(10, 20)]"
            one.chat = drop  # Some text has been delivered already, and another server may answer differently.
            assert isinstance(await fault(ask(engine, question("b"))), EngineFailedError)
            one.chat = two.chat = refusing(500)
            before = len(one.bodies) + len(two.bodies)
            await fault(ask(engine, question("c")))
            assert len(one.bodies) + len(two.bodies) == before + 2

    run(work())


def test_a_server_that_comes_back_is_used_again() -> None:
    async def work() -> None:
        async with serving(pieces=("two",)) as two:
            async with serving(pieces=("one",)) as one:
                port = int(one.url.split(":")[2].split("/")[0])
                engine = RemoteEngine(options(one.url, two.url), INTERVALS, check_origin)
                await engine.start(lambda progress: None)
                assert text(await ask(engine)) == "one"
            assert text(await ask(engine)) == "two"
            assert "1 of 2 servers" in engine.health().message
            async with serving(port=port, pieces=("one again",)):
                end = time.monotonic() + 30
                while "1 of 2" in engine.health().message:
                    assert time.monotonic() < end, "the first server does not count as well again"
                    await asyncio.sleep(0.02)
                assert text(await ask(engine)) == "one again"
            await engine.close()

    run(work())


def test_the_supervisor_reports_when_all_servers_are_down_and_when_one_is_available_again() -> None:
    async def work() -> None:
        async with serving() as server:
            port = int(server.url.split(":")[2].split("/")[0])
            supervisor = Supervisor(
                lambda: RemoteEngine(options(server.url), INTERVALS, check_origin),
                max_queued=1,
                max_running=1,
                timings=Timings(health_interval=0.05, first_back_off=0.05),
            )
            await supervisor.start(lambda progress: None)

        async def until(state: str) -> None:
            end = time.monotonic() + 30
            while supervisor.health().state != state:
                assert time.monotonic() < end, f"it does not become {state}"
                await asyncio.sleep(0.02)

        await until("restarting")
        assert "is unreachable" in supervisor.health().message
        async with serving(port=port):
            await until("ready")
            assert text(await ask(supervisor)) == "[(10, 20)]"
            await supervisor.close()

    run(work())


def test_requests_that_the_remote_engine_rejects_before_sending() -> None:
    async def work() -> None:
        async with serving() as server, started(server.url) as engine:
            odd = Generation("a", "where?", [np.zeros((30, 56, 3), np.uint8)], 50)
            assert isinstance(await fault(ask(engine, odd)), BadImageError)
            marked = Generation("a", "what is <|image_pad|>?", [], 50)
            assert isinstance(await fault(ask(engine, marked)), BadRequestError)
            assert not server.bodies
        assert isinstance(await fault(ask(engine)), EngineFailedError)

    run(work())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"urls": ()}, "engine.urls is empty"),
        ({"urls": ("gpu:9010",)}, "is not the address of a server"),
        ({"urls": ("ftp://gpu",)}, "is not the address of a server"),
        ({"urls": ("http://gpu:99999",)}, "is not the address of a server"),
        ({"urls": (f"http://me:{KEY}@gpu:9010",)}, "Put a key into engine.key_file"),
        ({"urls": (f"http://gpu:9010/v1?key={KEY}",)}, "Put a key into engine.key_file"),
        ({"urls": ("http://gpu", "http://gpu/v1/")}, "contains a server twice"),
        ({"urls": "http://gpu"}, "must be a list"),
        ({"key_file": "/no/such/file"}, "engine.key_file: /no/such/file cannot be read"),
        ({"image_format": "bmp"}, "engine.image_format is 'bmp'"),
        ({"model_type": "llama"}, "engine.model_type is 'llama'"),
        ({"kind": "embedded", "model": "x"}, "engine.urls is set, but engine.kind is embedded"),
    ],
)
def test_wrong_options_are_rejected(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(EngineConfigError) as caught:
        EngineOptions.of(**({"kind": "remote", "urls": ("http://gpu:9010",)} | changes)).validate()
    assert said in caught.value.message
    assert KEY not in caught.value.message


def test_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert read_key("", "engine.key_file", "NO_SUCH_VARIABLE") == ""
    monkeypatch.setenv("SOME_VARIABLE", KEY)
    assert read_key("", "engine.key_file", "SOME_VARIABLE") == KEY
    file = tmp_path / "key"
    for content in ("", "\n", f"{KEY}\nmore", "schlüssel", "x" * 5000):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(EngineConfigError, match="must contain only a key") as caught:
            read_key(str(file), "engine.key_file", "SOME_VARIABLE")
        assert KEY not in caught.value.message
    file.write_text(f" {KEY}\n")
    file.chmod(0o644)
    assert read_key(str(file), "engine.key_file", "SOME_VARIABLE") == KEY
    assert "chmod 600" in caplog.text
    assert KEY not in caplog.text


def test_png_is_exact_and_jpeg_is_near() -> None:
    image = np.random.default_rng(0).integers(0, 255, (28, 56, 3), np.uint8)

    def read(url: str) -> Any:
        kind, _, data = url.partition(";base64,")
        decoded: Any = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        return kind, decoded[:, :, ::-1]

    kind, exact = read(data_url(image, "png", 95))
    assert kind == "data:image/png"
    assert (exact == image).all()
    kind, near = read(data_url(image, "jpeg", 95))
    assert kind == "data:image/jpeg"
    assert 0 < np.abs(near.astype(int) - image).mean() < 8


def test_the_cells_are_those_of_the_families() -> None:
    assert {profile.model_type: profile.cell for profile in PROFILES} == CELLS
