"""Compare the estimated CPU time for compiling constraints with the measured one.

    python benchmark/constraints.py [--model FOLDER] [--repeats 3]

Each row is one constraint: the estimate of the HTTP server, or "rejected"; the CPU time of validating and compiling it with
llguidance as vLLM does; their ratio; and the CPU time of the slowest of the first tokens. Use the folder of a checkpoint with a
large vocabulary to include the time that depends on the vocabulary.
"""

import argparse
import json
import random
import string
import sys
import time
from collections.abc import Iterator
from typing import Any

import llguidance
import llguidance.hf
import llguidance.torch
import numpy as np
from transformers import AutoTokenizer

from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.engine.http.schemas import check_regex, check_schema

_STEPS = 8


def word(length: int = 20) -> str:
    """Return a random word."""
    return "".join(random.choices(string.ascii_letters, k=length))


def fields(count: int, required: bool = True, **schema: Any) -> dict[str, Any]:
    """Return the schema of an object whose properties have a schema each."""
    properties = {word(): dict(schema) for _ in range(count)}
    return {"type": "object", "properties": properties, "required": list(properties) if required else []}


def constraints() -> Iterator[tuple[str, Any]]:
    """Yield constraints with their names: JSON schemas, and regular expressions as text."""
    yield "255 optional strings", fields(255, False, type="string")
    yield "2,900 required strings", fields(2900, type="string")
    yield "300 integers up to 1e7", fields(300, type="integer", minimum=-(10**7), maximum=10**7)
    yield "300 integers up to 1e15", fields(300, type="integer", minimum=-(10**15), maximum=10**15)
    yield "enum of 5,000 texts", {"enum": [word() for _ in range(5000)]}
    yield "enum of 3,000 objects", {"enum": [{"a": word(), "b": [1, 2, 3]} for _ in range(3000)]}
    yield "255 texts with format date-time", fields(255, type="string", format="date-time")
    yield "255 texts with format uri", fields(255, type="string", format="uri")
    yield "list of up to 10,000 texts", {"type": "array", "items": {"type": "string"}, "maxItems": 10_000}
    yield "90 patterns", fields(90, type="string", pattern="[a-z]{1,20}[0-9]{1,20}x")
    yield "multipleOf 997", {"type": "integer", "multipleOf": 997}
    yield "multipleOf 999,983", {"type": "integer", "multipleOf": 999_983}
    yield "text of 4,000 characters", {"const": word(4000)}
    yield "text of 200,000 characters", {"const": word(200_000)}
    yield "2,500 optional groups", "".join(f"({word(3)})?" for _ in range(2500))
    yield "2,000 times .*", ".*" * 2000
    yield "3,000 characters that can be missing", "(.|)" * 3000
    yield "1,000 characters, 4,000 times", f"({word(1000)}){{4000}}"


def cpu_times(tokenizer: Any, kind: str, text: str) -> tuple[float, float]:
    """Return the milliseconds for validating and compiling a constraint, and those of the slowest of the first tokens."""
    began = time.thread_time()
    for any_whitespace in (True, False):
        defaults: Any = {"whitespace_flexible": any_whitespace}
        is_schema = kind == "json"
        grammar = (
            llguidance.LLMatcher.grammar_from_json_schema(text, defaults=defaults)
            if is_schema
            else llguidance.grammar_from("regex", text)
        )
        if any_whitespace and llguidance.LLMatcher.validate_grammar(grammar, None):
            return 1000 * (time.thread_time() - began), 0.0
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
    compiled = time.thread_time() - began
    mask = llguidance.torch.allocate_token_bitmask(1, tokenizer.vocab_size)
    slowest = 0.0
    for _ in range(_STEPS):
        began = time.thread_time()
        llguidance.torch.fill_next_token_bitmask(matcher, mask, 0)
        slowest = max(slowest, time.thread_time() - began)
        allowed = np.flatnonzero(np.unpackbits(mask.numpy().view(np.uint8), bitorder="little"))
        if matcher.is_stopped() or not allowed.size or not matcher.consume_token(int(random.choice(allowed))):
            break
    return 1000 * compiled, 1000 * slowest


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEMO_MODEL))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    random.seed(1)
    tokenizer = llguidance.hf.from_tokenizer(AutoTokenizer.from_pretrained(options.model))
    print(f"llguidance {llguidance.__version__}, {tokenizer.vocab_size} tokens, Python {sys.version.split()[0]}\n")
    print("| constraint | estimate | CPU time | ratio | slowest token |\n|---|---|---|---|---|")
    for name, given in constraints():
        kind = "regex" if isinstance(given, str) else "json"
        text = given if isinstance(given, str) else json.dumps(given)
        try:
            estimate = check_regex(text) if kind == "regex" else check_schema(text)
        except ValueError:
            estimate = 0.0
        repeats = options.repeats if estimate else 1
        compiled, slowest = map(min, zip(*(cpu_times(tokenizer, kind, text) for _ in range(repeats)), strict=True))
        ratio = f"{compiled / estimate:.2f}" if estimate else ""
        print(f"| {name} | {f'{estimate:.0f} ms' if estimate else 'rejected'} | {compiled:.0f} ms | {ratio} | {slowest:.1f} ms |")


if __name__ == "__main__":
    main()
