"""Build the tokenizer of the demo model. Its tokens are words of the tabletop world, whole numbers, and sentences of the prompts.

Each fixed sentence of RoboBrain 2.0's prompts is one token, so a prompt has about 30 tokens without the image. Other text is
encoded as letters and bytes, so the tokenizer supports any text.
"""

import json
import random
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from robobrain_ros.core.imaging import fit
from robobrain_ros.core.profiles import PROFILES, TEXT_SLOT
from robobrain_ros.demo.layout import NAMES
from robobrain_ros.demo.world import make_scene
from robobrain_ros.evaluation.questions import KINDS_OF_QUESTIONS, ask_about

PROFILE = PROFILES[0]
LARGEST_NUMBER = 400
"""Each number below this one is one token. The sides of resized images must be smaller."""
MIN_PIXELS, MAX_PIXELS, PATCH = 43_904, 86_240, 28
"""Pixel limits of the processor, and the side of a visual token's square. 640x480 becomes 336x252, 1280x720 becomes 364x196."""

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
TAGS = ["<think>", "</think>", "<answer>", "</answer>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% set texts = m.content | selectattr('text', 'defined') | list | length %}"
    "{% if texts < 2 %}{% for c in m.content %}{% if c.type in ('image', 'image_url') or 'image' in c %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% endif %}{% endfor %}{% endif %}"
    "{% for c in m.content %}{% if 'text' in c %}{{ c.text }}"
    "{% elif texts > 1 and (c.type in ('image', 'image_url') or 'image' in c) %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The images come first. If a message has several texts, its parts keep their order."""
LONGEST_TOKEN = 1000
"""Bytes of the longest token. llguidance, which vLLM uses for grammars, ends the engine at a token of 1,024 bytes or more."""
_FIRST_STAND_IN = 0xE000
"""A character of Unicode's private use area. It and the next ones stand for longer texts."""
_WORDS = Regex(r"\d{1,3}| ?[A-Za-z]+|\n|[^A-Za-z\d\s]+(?: (?=[\d(\[])[^A-Za-z\d\s]*)?|\s+")


def fixed_sentences() -> list[str]:
    """Return the constant parts of the prompts, without the blanks next to the user's text."""
    parts = {part.rstrip() for prompt in PROFILE.prompts.values() for part in prompt.template.split(TEXT_SLOT)}
    return sorted(part for part in parts if len(part) > 8)


def save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the tokenizer. Texts longer than `LONGEST_TOKEN` that are one token become one character before they are split.

    The ids of all texts stay the same.
    """
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    rules = (content["normalizer"] or {"normalizers": []})["normalizers"]
    for token in content["added_tokens"]:
        # A token that is not normalized would be found first, also within a longer text.
        token["normalized"] = not token["special"]
        if len(token["content"].encode()) > LONGEST_TOKEN:
            stand_in = chr(_FIRST_STAND_IN + len(rules))
            rules.append({"type": "Replace", "pattern": {"String": token["content"]}, "content": stand_in})
            token["content"] = stand_in
    content["normalizer"] = {"type": "Sequence", "normalizers": rules} if rules else None
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _corpus(scenes: int) -> list[str]:
    rng = random.Random(1)
    texts = ["user\nassistant\nsystem\nYou are a helpful assistant.\n"] * 50 + [f" {name}" for name in NAMES] * 30
    for seed in range(scenes):
        scene = make_scene(seed, (224, 168))
        size = fit((224, 168), MIN_PIXELS, MAX_PIXELS, PATCH)
        for kind in KINDS_OF_QUESTIONS:
            question = ask_about(scene, kind, rng)
            if kind != "strange":
                texts += [question.text, question.thinking(size)]
            texts.append(question.answer(size))
    return texts


def build(folder: Path, scenes: int = 150) -> PreTrainedTokenizerFast:
    """Learn the words, and write the files of the tokenizer and the processor to ``folder``."""
    words = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(_WORDS, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    without_digits = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_WORDS, "isolated"),
            pre_tokenizers.Split(Regex(r"\d"), "removed"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = without_digits
    trainer = trainers.BpeTrainer(
        vocab_size=760, min_frequency=3, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    learner.train_from_iterator(_corpus(scenes), trainer)
    learned = json.loads(learner.to_str())["model"]
    vocabulary: dict[str, int] = learned["vocab"]
    merges = [tuple(merge) for merge in learned["merges"]]
    for number in range(10, LARGEST_NUMBER):
        vocabulary[str(number)] = len(vocabulary)
    for number in range(10, LARGEST_NUMBER):
        digits = str(number)
        merges.append((digits[:-1], digits[-1]))
        if len(digits) == 3 and digits[1] != "0":
            merges.append((digits[0], digits[1:]))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=SPECIAL
    )
    fast.add_tokens([AddedToken(text, special=False, normalized=False) for text in TAGS + fixed_sentences()])
    fast.chat_template = CHAT_TEMPLATE
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": MIN_PIXELS,
        "max_pixels": MAX_PIXELS,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
    return fast
