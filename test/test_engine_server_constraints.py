"""The estimated cost of constraints in HTTP requests. Benchmarks compare the estimates with measured times."""

import json
import random
import string
from collections.abc import Callable
from typing import Any

import pytest
from plan_requests import random_request

from robobrain_ros.bounds.compile_cost import MOST_COMPILE, MOST_FORCED, regex_parts
from robobrain_ros.core.plans.schema import plan_form
from robobrain_ros.engine.http.checks import RequestError
from robobrain_ros.engine.http.requests import RequestLimits, checked_body
from robobrain_ros.engine.http.schemas import check_choice, check_regex, check_schema

LIMITS = RequestLimits(max_model_len=20_000, max_answers=4, max_images=1, max_pixels=10**6, max_body=1 << 20, names=("m",))
TEXT, CHAT = "/v1/completions", "/v1/chat/completions"


def word(seed: int, length: int = 20) -> str:
    return "".join(random.Random(seed).choices(string.ascii_letters, k=length))


def fields(count: int, make: Callable[[int], Any], **more: Any) -> dict[str, Any]:
    """Return the schema of an object with required properties."""
    properties = {f"p{number}": make(number) for number in range(count)}
    return {"type": "object", "properties": properties, "required": list(properties), **more}


def cost(path: str = TEXT, **body: Any) -> float:
    begin = {"prompt": "hi"} if path == TEXT else {"messages": [{"role": "user", "content": "hi"}]}
    return checked_body(path, json.dumps(begin | body).encode(), LIMITS).compile_cost


PLACE = r"properties\.p\d+: .*m[ai][nx]imum"
URI = {"type": "string", "format": "uri"}
SLOW: list[tuple[Any, str]] = [
    (fields(2900, lambda at: URI), r"properties\.p1\d\d: compiling the schema .* for format"),
    ({"type": "integer", "multipleOf": 999_983}, "compiling the schema .* for multipleOf"),
    (
        fields(300, lambda at: {"type": "integer", "minimum": at - 10**15, "maximum": 10**15 - at}),
        PLACE,
    ),
    (
        fields(1400, lambda at: {"type": "integer", "minimum": -(10**6) - at, "maximum": 10**7}),
        PLACE,
    ),
    (fields(400, lambda at: {"$ref": "#/$defs/u", "minLength": 1}, **{"$defs": {"u": URI}}), r"properties\.p\d+: .* for \$ref"),
    ({"enum": [{"a": word(at), "b": [1, 2, 3]} for at in range(3000)]}, "compiling .* for enum"),
    (fields(600, lambda at: {"type": "string", "pattern": "(a?b*){9}" * 9}), r"properties\.p\d+: .* for pattern"),
]
"""Schemas that take 0.5 s or more to compile, and the place and the keyword in the error."""


@pytest.mark.parametrize(("schema", "error"), SLOW)
def test_schemas_that_compile_slowly_are_rejected_with_the_place_and_the_keyword(schema: Any, error: str) -> None:
    with pytest.raises(ValueError, match=f"^{error}"):
        check_schema(schema)


@pytest.mark.parametrize("pattern", ["(abc)?" * 2500, "(.|)" * 3000, ".*" * 2000, "a{0,9}" * 2500, "a*b*" * 1000, r"\w" * 8000])
def test_regular_expressions_that_compile_slowly_are_rejected(pattern: str) -> None:
    with pytest.raises(ValueError, match="compiling the regular expression would take more than 500 ms"):
        check_regex(pattern)


LONG = word(0, MOST_FORCED + 1)


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [LONG]},
        {"enum": ["a", LONG]},
        fields(300, lambda at: {"const": word(at)}),
        {"type": "array", "items": {"const": "yes"}, "minItems": 2000},
        {"type": "array", "items": {"type": "null"}, "minItems": 2000},
        {"type": "array", "items": {"enum": ["yes", "yes"]}, "minItems": 2000},
        {"type": "array", "items": {"type": "string", "enum": ["yes", 1]}, "minItems": 2000},
        {"type": "array", "items": {"enum": ["yes", "n"], "minLength": 2}, "minItems": 2000},
        {"type": "array", "items": {"allOf": [{"enum": ["a", "b"]}], "enum": ["a", "c"]}, "minItems": 2000},
        {"allOf": [{"items": {"const": "yes"}}], "type": "array", "minItems": 2000},
        {"allOf": [{"type": "array", "minItems": 2000}], "items": {"const": "yes"}},
        {"type": "array", "items": {"$ref": "#/$defs/a"}, "minItems": 2000, "$defs": {"a": {"const": "yes"}}},
        {"type": "array", "items": {"type": "integer", "minimum": 5, "maximum": 5}, "minItems": 2000},
        {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 9, "multipleOf": 5}, "minItems": 2000},
        {"type": "array", "items": {"type": "string", "maxLength": 0}, "minItems": 2000},
        {"type": "array", "items": {"type": "array", "maxItems": 0}, "minItems": 2000},
        {"type": "array", "items": fields(1, lambda at: {"const": 1}), "minItems": 2000},
        {"type": "array", "items": {"type": "string", "pattern": "abc"}, "minItems": 2000},
        {"type": "array", "prefixItems": [{"const": word(at)} for at in range(300)]},
        {"type": "string", "pattern": "(abcdefgh){4000}"},
    ],
)
def test_long_texts_without_alternatives_are_rejected(schema: Any) -> None:
    """The engine tokenizes all of such a text with each token, in a step that all requests share."""
    with pytest.raises(ValueError, match="a text without alternatives"):
        check_schema(schema)


@pytest.mark.parametrize(
    ("pattern", "forced"),
    [
        ("abc", 3),
        ("(abc|defgh)?x", 6),
        ("(abc){4}", 12),
        ("(?:ab){2}{3}", 12),
        ("((ab){10}c){10}", 210),
        ("a+b{2,}", 3),
        ("(a?a){1000}", 2000),
        ("[a-z]{4000}.{90}", 0),
        (r"\d{8}-\d{4}", 1),
        ("[aa]{9}", 9),
        (r"[^\x00-`b-\u{10ffff}]{9}", 9),
        ("[a-z&&a]{9}", 9),
    ],
)
def test_the_longest_text_without_alternatives_of_a_regular_expression(pattern: str, forced: int) -> None:
    assert regex_parts(pattern).forced == forced


WEATHER = {
    "type": "object",
    "properties": {
        "location": {"type": "string", "description": "City and country e.g. Bogotá, Colombia"},
        "units": {"type": ["string", "null"], "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["location", "units"],
    "additionalProperties": False,
}
REASONING = {
    "type": "object",
    "properties": {
        "steps": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"explanation": {"type": "string"}, "output": {"type": "string"}},
                "required": ["explanation", "output"],
                "additionalProperties": False,
            },
        },
        "final_answer": {"type": "string"},
    },
    "required": ["steps", "final_answer"],
    "additionalProperties": False,
}
CONTACT = fields(
    5,
    lambda at: [
        {"type": "string", "pattern": "^@[a-zA-Z0-9_]+$"},
        {"type": "string", "format": "email"},
        {"type": "number", "minimum": -130, "maximum": 130},
        {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
        {"type": "string", "format": "date-time"},
    ][at],
)


@pytest.mark.parametrize("schema", [WEATHER, REASONING, CONTACT, fields(20, lambda at: CONTACT), {"enum": ["yes", "no"]}])
def test_ordinary_schemas_cost_little(schema: Any) -> None:
    assert check_schema(schema) < MOST_COMPILE / 4


@pytest.mark.parametrize("multiple", [1, 5, 100, 1000, 0.5, 0.25, 0.01, 0.0001, 1e-6, 0.1])
def test_common_multiples_cost_little(multiple: float) -> None:
    assert check_schema({"type": "number", "minimum": 0, "maximum": 1e6, "multipleOf": multiple}) < MOST_COMPILE / 4


def test_lists_of_values_and_choices_cost_little() -> None:
    assert check_schema({"enum": [word(at) for at in range(1000)]}) < MOST_COMPILE / 4
    assert check_choice([word(at, 1000) for at in range(200)]) < MOST_COMPILE / 4
    assert check_regex("|".join(word(at) for at in range(500))) < MOST_COMPILE / 4
    assert check_regex(r"\(\d{1,4}, ?\d{1,4}\)(, \(\d{1,4}, ?\d{1,4}\)){0,20}") < MOST_COMPILE / 4


@pytest.mark.parametrize("seed", range(5))
def test_the_nodes_own_plan_schemas_are_within_the_limit(seed: int) -> None:
    assert check_schema(plan_form(random_request(seed), 100_000).text) < MOST_COMPILE


def test_all_tools_count_together() -> None:
    def tools(count: int, parameters: Any) -> list[Any]:
        return [{"type": "function", "function": {"name": f"f{at}", "parameters": parameters}} for at in range(count)]

    assert 0 < cost(CHAT, tools=tools(128, fields(3, lambda at: {"type": "integer"})), tool_choice="required") < MOST_COMPILE
    assert cost(CHAT, tools=tools(128, fields(30, lambda at: URI))) == 0, "the model may call none of them"
    with pytest.raises(RequestError, match=r"of all answers .* use fewer tools"):
        cost(CHAT, tools=tools(128, fields(3, lambda at: URI)), tool_choice="required")


def test_each_prompt_and_answer_counts() -> None:
    once = cost(structured_outputs={"json": WEATHER})
    assert cost(prompt=["a", "b"], n=3, structured_outputs={"json": WEATHER}) == pytest.approx(6 * once)
    wide = fields(800, lambda at: {"type": "string"})
    assert cost(structured_outputs={"json": wide}) < MOST_COMPILE
    with pytest.raises(RequestError, match=r"prompts or answers") as caught:
        cost(prompt=["a"] * 16, structured_outputs={"json": wide})
    assert caught.value.status == 400


def test_every_kind_of_constraint_has_a_cost() -> None:
    assert cost() == 0
    for given in ({"json": WEATHER}, {"regex": "a|b"}, {"choice": ["yes", "no"]}, {"json_object": True}):
        assert cost(structured_outputs=given) > 0
    assert cost(response_format={"type": "json_object"}) > 0
    assert cost(response_format={"type": "json_schema", "json_schema": {"schema": WEATHER}}) > 0
    assert cost(response_format={"type": "text"}) == 0


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": True},
        {"type": "number", "multipleOf": True},
        {"type": "number", "exclusiveMinimum": True, "minimum": 1},
        {"type": "array", "minItems": True},
        {"type": "string", "maxLength": False},
    ],
)
def test_booleans_are_no_numbers(schema: dict[str, Any]) -> None:
    """JSON Schema's draft 4 had booleans there."""
    with pytest.raises(ValueError, match="number"):
        check_schema(schema)
