"""Bounds of schemas, patterns and grammars of clients. They are checked before compilation, and enforced or rejected."""

import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_requests import random_request

from robobrain_ros.bounds.constraints import check_grammar_bounds, check_regex_bounds, check_schema_bounds
from robobrain_ros.core import profile_for
from robobrain_ros.core.grammars import coordinate_pattern
from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.plans.argument_schema import read_schema
from robobrain_ros.core.plans.checks import check_request
from robobrain_ros.core.plans.patterns import matches, safe_pattern
from robobrain_ros.core.plans.request import PlanRequest, Robot, Skill
from robobrain_ros.core.plans.schema import plan_form
from robobrain_ros.core.plans.structured import StructuredPlanReader
from robobrain_ros.core.query import Task
from robobrain_ros.errors import BadRequestError

ENDLESS = "9" * 4400
"""A number with more digits than Python converts."""

PARTS = st.sampled_from(
    ["a", "b", "é", "[ab]", "[a-c]", r"\d", r"\w", "[^a]", ".", "^", "$", r"\A", r"\Z", r"\b", r"\B", r"\$", r"\^", "(?#c)", "()"]
)
COUNTS = st.sampled_from(["?", "{2}", "{0,2}", "{,2}", "*", "+", "{1,}", "??", "{1,2}+", "{0}"])


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    opening = st.sampled_from(["(", "(?:", "(?P<n>", "(?i:", "(?s:", "(?-i:", "(?=", "(?!", "(?<=a", "(?<!", "(?>"])
    return st.one_of(
        st.builds("".join, st.lists(inner, max_size=3)),
        st.builds("{}|{}".format, inner, inner),
        st.builds("{}{})".format, opening, inner),
        st.builds("({}){}".format, inner, COUNTS),
        st.builds("{}{}".format, inner, st.sampled_from([r"\1", "(?P=n)", "(?i)", "{3}"])),
    )


PATTERNS = st.builds(
    "{}{}".format, st.sampled_from(["", "", "", "^", "(?i)", "(?u)", "(?x)", "(?s)"]), st.recursive(PARTS, grown, max_leaves=6)
)
TEXTS = ["".join(letters) for count in range(5) for letters in itertools.product("ab$", repeat=count)]
TEXTS += ["A", "B", "AB", "é", "^", "a^", "1", "_", "a1", "٣", "é1", "c", "ac"]


@given(PATTERNS)
@settings(max_examples=600, deadline=None)
def test_a_pattern_is_enforced_as_python_reads_it_or_rejected(pattern: str) -> None:
    try:
        safe = safe_pattern(pattern)
    except ValueError:
        return
    for text in TEXTS:
        # As in JSON Schema, \d and \w match ASCII characters only.
        wanted = re.fullmatch(pattern.replace("(?u)", ""), text, re.ASCII) is not None
        assert (re.fullmatch(safe, text) is not None) == wanted == matches(safe, text), (pattern, safe, text)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(?i:abc)", "a group in the pattern sets flags"),
        ("(?-i:abc)", "a group in the pattern sets flags"),
        ("(?i)abc", "sets flags"),
        ("a$b", r"\$ in its middle"),
        ("a^b", r"\^ in its middle"),
        ("(a|b$)c", r"\$ in its middle"),
        (r"a\Zb", r"\\Z in its middle"),
        (r"a\b", r"\\b in its middle"),
        ("(^a){2}", r"\^ in its middle"),
        ("a(?=b)", "assert"),
        (r"(a)\1", "groupref"),
        ("(?>ab)", "cannot be enforced|not a regular expression"),
        ("a{2}+", "cannot be enforced|not a regular expression"),
        (r"\p{L}", "not a regular expression"),
        ("[a-ÿ]", "control characters"),
        ("a{99999999999}", "not a regular expression"),
        ("[[:alpha:]]", "several meanings"),
        ("[a-z&&[b]]", "several meanings"),
        ("[a--b]", "several meanings"),
    ],
)
def test_constraints_that_cannot_be_enforced_are_rejected_with_the_reason(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        safe_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", ["^ab?$", r"\Aab?\Z", "^a|b$", "(^a$)", "^(a|b)$", "(?P<name>ab)", "(?:ab)", "(?#word)ab", "^"]
)
def test_anchors_at_the_ends_and_named_groups_change_nothing(pattern: str) -> None:
    for text in TEXTS:
        assert (re.fullmatch(safe_pattern(pattern), text) is not None) == (re.fullmatch(pattern, text) is not None)


def skilled(schema: str) -> PlanRequest:
    return PlanRequest((Robot("arm", skills=(Skill("go", "", schema),)),))


@pytest.mark.parametrize(
    ("argument", "place"),
    [
        ('{"type": "integer", "minimum": 1e999}', "properties.x.minimum"),
        ('{"type": "number", "maximum": -1e999}', "properties.x.maximum"),
        ('{"type": "integer", "exclusiveMinimum": 1e400}', "properties.x.exclusiveMinimum"),
        ('{"enum": [1, 1e999]}', r"properties.x.enum\[1\]"),
        ('{"const": 1e999}', "properties.x.const"),
        ('{"type": "string", "default": 1e999}', "properties.x.default"),
        ('{"type": "array", "items": {"type": "null"}, "minItems": 1e999}', "properties.x.minItems"),
        ('{"type": "array", "items": {"type": "null"}, "minItems": 1e300}', "properties.x.minItems"),
        ('{"type": "array", "items": {"type": "null"}, "maxItems": 1000000000}', "properties.x.maxItems"),
        ('{"type": "array", "items": {"type": "null"}, "minItems": 65}', "x"),
        ('{"type": "string", "minLength": 4e7}', "properties.x.minLength"),
        ('{"type": "string", "pattern": "a{99999999999}"}', "properties.x.pattern"),
        ('{"type": "string", "pattern": "(?i:abc)"}', "x"),
        ('{"type": "string", "pattern": "a$b"}', "x"),
        ('{"type": "string", "pattern": "["}', "properties.x.pattern"),
        (f'{{"type": "integer", "minimum": {ENDLESS}}}', "the text is not JSON"),
        (f'{{"type": "integer", "minimum": {ENDLESS[:4000]}}}', "x"),
        ('{"type": "integer", "minimum": 1e308}', "x"),
    ],
)
def test_a_skills_schema_beyond_all_bounds_is_a_bad_request_with_the_field(argument: str, place: str) -> None:
    schema = f'{{"type": "object", "properties": {{"x": {argument}}}}}'
    with pytest.raises(BadRequestError, match=rf"^context\.robots\[0\]\.skills\[0\]\.arguments_schema: {place}(?!\w)"):
        check_request(skilled(schema))


def test_a_pattern_with_many_ways_is_checked_in_bounded_time() -> None:
    """If the check tried every way, of which there are more than 2 ** 50, the test would exceed its time limit."""
    pattern = safe_pattern("(x|xx){66}")
    assert matches(pattern, "x" * 100)
    assert not matches(pattern, "x" * 132 + "y")
    assert not matches(safe_pattern("(x|x){0,90}y"), "x" * 90)
    schema = {"type": "object", "properties": {"code": {"type": "string", "pattern": "(x|xx){66}"}}}
    reader = StructuredPlanReader(plan_form(skilled(json.dumps(schema)), 100_000))
    step = {"subtask": "go", "robot_name": "arm", "skill": "go", "arguments": {"code": "x" * 132 + "y"}, "subtask_order": 1}
    reader.feed(json.dumps({"reasoning_explanation": "", "verdict": "plan", "subtask_list": [step]}))
    with pytest.raises(ValueError, match="is not what the schema allows"):
        reader.finish()


@pytest.mark.parametrize("seed", range(10))
def test_every_form_that_the_node_asks_for_is_within_the_bounds(seed: int) -> None:
    check_schema_bounds(plan_form(random_request(seed), 100_000).text)
    for task, family in itertools.product((Task.POINT, Task.TRAJECTORY, Task.GROUND), ("qwen2_5_vl", "qwen3_vl")):
        check_regex_bounds(coordinate_pattern(task, profile_for(family), FittedSize(640, 480, 3584, 3584)))


def test_ordinary_schemas_and_patterns_of_other_callers_are_within_the_bounds() -> None:
    node: dict[str, Any] = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "minItems": {"type": "integer"}}}
    check_schema_bounds({"$defs": {"node": node}, "type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 1000})
    check_schema_bounds('{"type": "string", "maxLength": 20000, "pattern": "^[a-z]+(-[a-z0-9]{1,63})*$"}')
    for pattern in (r"\p{L}+", r"\x{10FFFF}", "[]{9999}]", r"\{99999\}", "[{99999}]", "a{0,4096}", "(ab{3}){200}", "(?i)yes|no"):
        check_regex_bounds(pattern)
    check_grammar_bounds('root ::= "yes" | "no" [0-9]{1,3}\nstart: /a{0,9}/~1..20 %json {"minItems": 3}')


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"minItems": 1_000_000_000}, "minItems"),
        ('{"items": {"minLength": 1e9}}', "items.minLength"),
        ('{"minimum": 1e999}', "minimum"),
        ({"properties": {"x": {"pattern": "(a{100}){100}"}}}, "properties.x.pattern"),
        ({"patternProperties": {"a{9999}": {}}}, "patternProperties"),
        ({"anyOf": [{"not": {"maxProperties": 10**400}}]}, r"anyOf\[0\].not.maxProperties"),
        ({"structures": [{"schema": {"minItems": 1e9}}]}, r"structures\[0\].schema.minItems"),
        ({"format": {"type": "grammar", "grammar": 'root ::= "a"{99999}'}}, "format.grammar"),
        ("[" * 100_000, "it is not JSON"),
        ("[" * 100 + "]" * 100, r"\[0\]"),
        ({"enum": ["x" * 300_000]}, "it has more than"),
    ],
)
def test_a_schema_beyond_the_bounds_is_named_by_its_place(schema: Any, place: str) -> None:
    with pytest.raises(ValueError, match=f"^{place}"):
        check_schema_bounds(schema)


@pytest.mark.parametrize(
    "pattern",
    [
        "a{99999999999}",
        "a{,5000}",
        "a{5000,}",
        "a{ 0 , 5000 }",
        "(a{100}){100}",
        "((a{20}){20}){20}",
        "(a{100})?{100}",
        "(a{1000}b|c){10}",
        "a{4000}" * 20,
        "(?x) # [\na{9}",
        "(" * 100 + ")" * 100,
        "[" * 5000,
        "x" * 20_000,
    ],
)
def test_a_regular_expression_beyond_the_bounds_is_rejected(pattern: str) -> None:
    with pytest.raises(ValueError, match="the regular expression"):
        check_regex_bounds(pattern)


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "a"{1000000}',
        'start: "a"~1000000',
        "start: /a/~1..1000000",
        'x: %json {"minItems": 1e9}',
        "x: /a{99999}/",
        "a" * 70_000,
    ],
)
def test_a_grammar_beyond_the_bounds_is_rejected(grammar: str) -> None:
    with pytest.raises(ValueError, match="the grammar"):
        check_grammar_bounds(grammar)


def test_a_schema_within_the_bounds_is_read_as_before() -> None:
    read = read_schema('{"type": "object", "properties": {"x": {"type": "string", "pattern": "^[A-Z]{2}$"}}}')
    assert read["properties"]["x"]["pattern"] == "^([A-Z]){2,2}$"
