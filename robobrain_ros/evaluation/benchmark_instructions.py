"""The instructions after the questions of benchmarks: those of their authors, and those of FlagEvalMM."""

import re
from pathlib import Path

from robobrain_ros.evaluation.benchmark_item import Item

DIRECT = "Answer with the option's letter from the given choices directly."
"""Instruction of FlagEvalMM for All-Angles, EgoPlan-Bench2, CV-Bench and EmbSpatial-Bench, and of VSI-Bench."""
STEPS = (
    "Carefully analyze the multiple-choice question above and reason through it step by step. Conclude your response with a line "
    "in the following format: Answer: $LETTER (without quotes), where $LETTER is the letter of the correct choice."
)
"""Instruction of FlagEvalMM for ERQA and SAT."""
NUMBER = "Please answer the question using a single word or phrase."
"""Instruction of VSI-Bench for numbers."""
VIDEO = "These are frames of a video."
LAST_LINE = (
    "The last line of your response should be of the following format: 'Answer: $LETTER' (without quotes) where LETTER is one of "
    "options."
)
_VSI = (
    "Carefully analyze the question above and reason through it step by step. Conclude your response with a line in the "
    "following format:"
)
YES_NO_LINE = """Your task is to answer the question above. Respond with a brief explanation if needed, followed by a yes or no \
answer in the last line of your response.

Format your final answer strictly as follows on the last line of your response:
Answer: yes or no

Do not include additional text after this line.
"""
"""Instruction of FlagEvalMM for RoboSpatial-Home."""
_STEP_TOKENS = 2048
_STEPWISE = re.compile(r"step by step|Answer: ?(?:\$|yes or no)", re.IGNORECASE)
"""Part of every instruction that lets the model reason before its answer."""


def letter_instruction(folder: Path, called: str, flageval: bool) -> str:
    """Return the instruction of FlagEvalMM for questions of multiple choice in its own form. It depends on the benchmark.

    :param called: name of the benchmark as the user states it, or empty.
    :param flageval: whether the protocol is that of FlagEvalMM.
    """
    # FlagEvalMM writes the questions of ERQA to ERQA/test/data.json.
    plain = re.sub(r"[^a-z0-9]", "", (called or "".join(folder.absolute().parts[-2:])).lower())
    if flageval and re.fullmatch(r"(erqa|sat)(test)?", plain):
        return STEPS
    return LAST_LINE if flageval and plain.startswith("blink") else DIRECT


def video_question(question: str, chosen: bool, flageval: bool) -> str:
    """Return a question of VSI-Bench with its instruction.

    :param chosen: whether the answer is the letter of an option. False: it is a number.
    """
    how = DIRECT if chosen else NUMBER
    if flageval:
        what = "$LETTER (without quotes), where $LETTER corresponds to the correct option."
        number = "$NUMBER (without quotes), where $NUMBER is a number (integer or float) corresponds to the correct answer."
        how = f"{_VSI}\nAnswer: {what if chosen else number}"
    return f"{VIDEO}\n{question}\n{how}"


def tokens_for(text: str) -> int:
    """Return the token limit of the answer to a question, which is higher if the model reasons first."""
    return _STEP_TOKENS if _STEPWISE.search(text) else Item.max_tokens
