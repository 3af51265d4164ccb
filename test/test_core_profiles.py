"""Model families are identified by model_type, and their prompts are those of the training."""

import json
import re

import pytest

from robobrain_ros.core.profiles import PROFILES, TEXT_SLOT, AnswerForm, CoordinateRule, profile_for
from robobrain_ros.core.query import Task
from robobrain_ros.errors import EngineConfigError, UnsupportedTaskError

# The prompts in inference.py of FlagOpen/RoboBrain2.0 and 2.5, with "hold the cup" as the text.
VERBATIM = {
    ("qwen2_5_vl", Task.POINT): "hold the cup. Your answer should be formatted as a list of tuples, i.e. [(x1, y1), (x2, y2), "
    "...], where each tuple contains the x and y coordinates of a point satisfying the conditions above. The coordinates "
    "should indicate the normalized pixel locations of the points in the image.",
    ("qwen2_5_vl", Task.AFFORDANCE): 'You are a robot using the joint control. The task is "hold the cup". Please predict a '
    "possible affordance area of the end effector.",
    ("qwen2_5_vl", Task.TRAJECTORY): 'You are a robot using the joint control. The task is "hold the cup". Please predict up '
    "to 10 key trajectory points to complete the task. Your answer should be formatted as a list of tuples, i.e. [[x1, y1], "
    "[x2, y2], ...], where each tuple contains the x and y coordinates of a point.",
    ("qwen2_5_vl", Task.GROUND): "Please provide the bounding box coordinate of the region this sentence describes: hold the "
    "cup.",
    ("qwen3_vl", Task.GROUND): "Please provide the bounding box coordinate of the region this sentence describes: hold the cup.",
    ("qwen3_vl", Task.POINT): "hold the cup. Please provide its 2D coordinates. Your answer should be formatted as a tuple, "
    "i.e. [(x, y)], where the tuple contains the x and y coordinates of a point satisfying the conditions above.",
    ("qwen3_vl", Task.TRAJECTORY): "Please predict 3D end-effector-centric waypoints to complete the task successfully. The "
    'task is "hold the cup". Your answer should be formatted as a list of tuples, i.e., [(x1, y1, d1), (x2, y2, d2), ...], '
    "where each tuple contains the x and y coordinates and the depth of the point.",
}


@pytest.mark.parametrize(("model_type", "task"), VERBATIM, ids=lambda part: getattr(part, "value", part))
def test_prompt_is_the_one_of_the_training(model_type: str, task: Task) -> None:
    assert profile_for(model_type).prompt(task, "hold the cup") == VERBATIM[model_type, task]


def test_affordance_of_2_5_is_asked_as_pointing() -> None:
    profile = profile_for("qwen3_vl")
    assert profile.prompt(Task.AFFORDANCE, "the handle") == profile.prompt(Task.POINT, "the handle")
    assert profile.form(Task.AFFORDANCE) is AnswerForm.POINTS
    assert profile_for("qwen2_5_vl").form(Task.AFFORDANCE) is AnswerForm.BOXES


@pytest.mark.parametrize("text", ["the mug.", "the mug. ", "  the mug", "the mug...", "the mug .\n"])
def test_the_texts_own_full_stop_is_not_doubled(text: str) -> None:
    for profile in PROFILES:
        tasks = [task for task, prompt in profile.prompts.items() if re.search(r'{text}"?\.', prompt.template)]
        assert Task.GROUND in tasks or not profile.family.startswith("RoboBrain")
        for task in tasks:
            prompt = profile.prompt(task, text)
            assert prompt == profile.prompt(task, "the mug"), f"profiles.py: set ends_sentence in the prompt for {task.value}"


@pytest.mark.parametrize("text", ["{", "{0}", "{text}", "{text!r:>10}", "100 % of {it}", "\\1 \\g<0>", "$text"])
def test_text_is_inserted_as_it_is(text: str) -> None:
    for profile in PROFILES:
        for task, prompt in profile.prompts.items():
            in_template = prompt.template.replace(TEXT_SLOT, "").count(text)
            assert profile.prompt(task, text).count(text) - in_template == (2 if task is Task.PROGRESS else 1)


def test_a_question_is_asked_verbatim() -> None:
    assert profile_for("qwen3_vl").prompt(Task.ASK, " How many mugs are there? ") == " How many mugs are there? "


def test_coordinates_and_grid() -> None:
    two, two_five = profile_for("qwen2_5_vl"), profile_for("qwen3_vl")
    assert (two.coordinates, two.cell) == (CoordinateRule.PIXELS_OF_MODEL_IMAGE, 28)
    assert (two_five.coordinates, two_five.cell) == (CoordinateRule.THOUSANDTHS, 32)


def test_prefix_opens_or_closes_the_thinking_where_the_model_can_think() -> None:
    two = profile_for("qwen2_5_vl")
    assert two.assistant_prefix(True) == "<think>"
    assert two.assistant_prefix(False) == "<think></think><answer>"
    assert two.prefix_after_thinking("hm") == "<think>hm</think><answer>"
    for profile in (two.with_thinking(False), profile_for("qwen3_vl")):
        assert profile.assistant_prefix(False) == profile.assistant_prefix(True) == ""


def test_2_5_cannot_be_made_to_think() -> None:
    with pytest.raises(EngineConfigError, match="not trained to think"):
        profile_for("qwen3_vl").with_thinking(True)
    assert profile_for("qwen2_5_vl").with_thinking(False).with_thinking(True) == profile_for("qwen2_5_vl")


def test_unsupported_task_names_the_supported_ones() -> None:
    from dataclasses import replace

    profile = profile_for("qwen2_5_vl")
    only_ask = replace(profile, prompts={Task.ASK: profile.prompts[Task.ASK]})
    assert only_ask.tasks == {Task.ASK}
    with pytest.raises(UnsupportedTaskError, match=r"not trained for the task ground. It supports ask"):
        only_ask.prompt(Task.GROUND, "the mug")


def test_profile_is_found_by_a_checkpoints_folder_or_config(tmp_path) -> None:
    config = tmp_path / "weights-3b" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"model_type": "qwen3_vl", "vision_config": {"patch_size": 16}}))
    assert profile_for(config.parent) is profile_for(str(config)) is profile_for("qwen3_vl")


@pytest.mark.parametrize("content", ["", "{", "[]", '"qwen3_vl"', "{}", '{"model_type": "llama"}', '{"model_type": null}'])
def test_config_of_an_unknown_family_is_rejected_with_a_sentence(tmp_path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(EngineConfigError, match=r"config\.json|qwen2_5_vl"):
        profile_for(tmp_path)


def test_unknown_names_and_missing_files_name_what_is_known(tmp_path) -> None:
    with pytest.raises(EngineConfigError, match=r"qwen2_5_vl \(RoboBrain 2\.0, .*\) and qwen3_vl \(RoboBrain 2\.5, "):
        profile_for("BAAI/RoboBrain2.0-7B")
    with pytest.raises(EngineConfigError, match=r"config\.json cannot be read"):
        profile_for(tmp_path)
