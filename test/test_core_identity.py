"""A checkpoint is identified by what it states. Contradictions are errors before anything is loaded, and guesses are warnings."""
# The lines are longer than the style allows, because they quote messages.
# ruff: noqa: E501, RUF043

import dataclasses
import json
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from robobrain_ros.core import parse_answer
from robobrain_ros.core.grammars import coordinate_pattern
from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.profiles import PROFILES, Profile, check_origin, checks, identify_model, identity, profile_for
from robobrain_ros.core.profiles.checks import fault_of
from robobrain_ros.core.profiles.clues import named_clues, read_clues
from robobrain_ros.core.profiles.identity import identify
from robobrain_ros.core.query import Point, Task
from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.engine.base import EngineInfo, ModelOrigin
from robobrain_ros.errors import EngineConfigError

WITH_NAMES = [(profile, name) for profile in PROFILES for name in profile.examples]


def checkpoint(folder: Path, model_type: str = "qwen3_vl", hidden_size: int = 0, **files: Any) -> Path:
    """Make a checkpoint's folder without weights. ``files`` are the texts of the card and further fields of config.json."""
    folder.mkdir(parents=True)
    card = files.pop("card", "")
    text = {"text_config": {"hidden_size": hidden_size}} if hidden_size else {}
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, **text, **files}))
    if card:
        (folder / "README.md").write_text(card)
    return folder


@pytest.mark.parametrize(("profile", "name"), WITH_NAMES, ids=lambda part: getattr(part, "name", part))
@pytest.mark.parametrize("change", ["", "-AWQ", "-fp8-dynamic", "___lower"])
def test_published_names_identify_their_family_alone(profile: Any, name: str, change: str) -> None:
    name = name.lower() if change == "___lower" else f"{name}{change}"
    found = identify(named_clues((name,), profile.model_type))
    assert (found.profile, found.by, found.warning) == (profile, "its name", "")


@pytest.mark.parametrize(
    "place", ["folder", "hub cache", "modelscope cache", "_name_or_path", "tag", "base_model", "base_models"]
)
def test_each_place_of_the_name_identifies_the_family(tmp_path: Path, place: str) -> None:
    folders = {
        "folder": "RynnBrain-8B",
        "hub cache": "models--x--RynnBrain-8B/snapshots/1a2b",
        "modelscope cache": "RynnBrain___8B",
    }
    cards = {
        "tag": "---\ntags:\n- robotics\n- rynnbrain\n---\n# Model",
        "base_model": "---\nbase_model: Alibaba-DAMO-Academy/RynnBrain-2B\n---\n",
        "base_models": "---\nbase_model:\n- Alibaba-DAMO-Academy/RynnBrain-2B\n---\n",
    }
    further: dict[str, Any] = {"_name_or_path": "/train/RynnBrain-8B/"} if place == "_name_or_path" else {}
    folder = checkpoint(tmp_path / folders.get(place, "weights"), card=cards.get(place, ""), **further)
    found = identify(read_clues(folder))
    assert (found.profile.name, found.warning) == ("rynnbrain", "")
    assert identify(read_clues(folder / "config.json")).by == found.by


def test_a_family_overrides_the_families_that_it_was_made_from(tmp_path: Path) -> None:
    card = "---\nbase_model: Qwen/Qwen3-VL-8B-Instruct\n---\n"
    folder = checkpoint(tmp_path / "Cosmos-Reason2-8B", _name_or_path="Qwen/Qwen3-VL-8B-Instruct", card=card)
    assert profile_for(folder).name == "cosmos-reason2"
    thinker = checkpoint(tmp_path / "Cosmos-Reason2-2B", card="---\nbase_model: Qwen/Qwen3-VL-2B-Thinking\n---\n")
    assert profile_for(thinker).name == "cosmos-reason2"
    grm = checkpoint(tmp_path / "Robo-Dopamine-GRM-3B", "qwen2_5_vl", card="---\nbase_model: BAAI/RoboBrain2.0-3B\n---\n")
    assert profile_for(grm).name == "grm-3b"
    assert profile_for(checkpoint(tmp_path / "GRM-8B-Preview")).name == "grm-8b"


def test_the_demo_model_is_identified_by_its_card() -> None:
    found = identify(read_clues(DEMO_MODEL))
    assert (found.profile.name, found.by, found.warning) == ("robobrain2.0", "tags in README.md", "")


@pytest.mark.parametrize(
    ("model_type", "guess", "others"),
    [
        ("qwen2_5_vl", "robobrain2.0", ("grm-3b", "qwen2.5-vl", "embodied-r1", "mimo-embodied")),
        ("qwen3_vl", "robobrain2.5", ("grm-8b", "qwen3-vl", "embodied-r1.5", "rynnbrain", "cosmos-reason2")),
    ],
)
def test_a_guess_is_a_warning_with_the_alternatives(
    tmp_path: Path, caplog: Any, model_type: str, guess: str, others: Any
) -> None:
    folder = checkpoint(tmp_path / "weights", model_type)
    found = identify(read_clues(folder))
    assert (found.profile.name, found.by) == (guess, f"model_type {model_type}, a guess")
    assert f"The guess is {found.profile.family} ({guess})" in found.warning
    assert f"Set model_profile to {guess} or to one of {', '.join(others)}." in found.warning
    assert profile_for(folder).name == guess
    assert found.warning in caplog.text


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "qwen3_vl"])
def test_a_name_that_is_the_model_type_identifies_nothing(tmp_path: Path, model_type: str) -> None:
    folder = checkpoint(tmp_path / model_type, model_type, card=f"---\ntags:\n- {model_type}\n---\n")
    assert identify(read_clues(folder)).warning


def test_the_parameter_overrides_every_clue_but_the_model_type(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "RynnBrain-8B", hidden_size=4096)
    found = identify(read_clues(folder), "qwen3-vl")
    assert (found.profile.name, found.by) == ("qwen3-vl", "model_profile")
    with pytest.raises(
        EngineConfigError,
        match="model_profile is robobrain2.0, which has the model type qwen2_5_vl, but .*/config.json states qwen3_vl",
    ):
        identify(read_clues(folder), "robobrain2.0")
    with pytest.raises(
        EngineConfigError, match="model_profile is 'rynbrain'. It must be auto or one of robobrain2.0, robobrain2.5,"
    ):
        identify(read_clues(folder), "rynbrain")


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("RynnBrain-8B", {"model_type": "qwen2_5_vl", "hidden_size": 3584},
         "Its name identifies .*RynnBrain-8B as RynnBrain, which has the model type qwen3_vl, but .*/config.json states qwen2_5_vl"),
        ("RynnBrain-8B", {"hidden_size": 5120}, r"RynnBrain, which has the hidden_size 2048 \(2B\) or 2560 \(4B\) or 4096 \(8B\), but "
         "hidden_size 5120 in config.json is that of Qwen3-VL 32B"),
        ("RynnBrain-8B", {"_name_or_path": "BAAI/RoboBrain2.5-8B-NV"}, "is identified as several families: RynnBrain .its name. and "
         r"RoboBrain 2.5 \(_name_or_path in config.json\). Set model_profile to one of "),
        ("RynnBrain-vs-Cosmos-Reason2", {}, "several families: RynnBrain .* and Cosmos-Reason2"),
        ("RynnBrain-30B-A3B", {"model_type": "qwen3_vl_moe"}, "unknown model type 'qwen3_vl_moe'. Known model types are qwen2_5_vl "
         r"\(RoboBrain 2.0, GRM, Qwen2.5-VL, Embodied-R1, MiMo-Embodied\) and qwen3_vl \("),
        ("RynnBrain-Plan-8B", {}, "RynnBrain-Plan-8B is a checkpoint of the authors of RynnBrain that has other prompts"),
        ("RynnBrain-Cot-8B", {}, "RynnBrain-Cot-8B is a checkpoint of the authors of RynnBrain that has other prompts"),
        ("RynnBrain1.1-2B", {}, "RynnBrain1.1-2B is a checkpoint of the authors of RynnBrain that has other prompts"),
        ("RynnBrain1.1-2B", {"model_type": "qwen3_5"}, "unknown model type 'qwen3_5'"),
        ("Qwen3-VL-8B-Thinking", {}, "other prompts, which are not supported. To use those of Qwen3-VL, set model_profile to qwen3-vl"),
        ("Embodied-R1.5-VLA-LIBERO", {}, "other prompts"),
        ("RoboBrain-X0-Preview", {"model_type": "qwen2_5_vl"}, "other prompts"),
    ],
)  # fmt: skip
def test_metadata_that_lies_is_an_error(tmp_path: Path, name: str, config: dict[str, Any], message: str) -> None:
    folder = checkpoint(tmp_path / name, **config)
    with pytest.raises(EngineConfigError, match=message) as raised:
        check_origin(ModelOrigin((str(folder),), folder))
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    "card",
    [
        "---\n[",
        "---\ntags: {a: 1}\nbase_model: 3\n---\n",
        "---\n- x\n---\n",
        "---\n" + "[" * 5000 + "\n---\n",
        "---\nmodel_name: RoboBrain2.5-8B\ntable: " + "[" * 100 + "]" * 100 + "\n---\n",
        "\x00\xff",
        "---\n",
        "---\na: !!bool maybe\n---\n",
        '---\na: !!int ""\n---\n',
        "---\na: !!timestamp x\n---\n",
        "---" + "\n" * 40_000,
        "---\na0: &a0 {k: v}\n"
        + "".join(f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
        + "---\n",
    ],
    ids=range(12),
)
def test_a_card_that_is_no_card_states_nothing(tmp_path: Path, card: str) -> None:
    assert identify(read_clues(checkpoint(tmp_path / "weights", card=card))).warning


@pytest.mark.parametrize(
    ("name", "config", "card"),
    [
        ("qwen3_vl_8b_robobrain", {}, ""),
        ("my_robot", {"_name_or_path": "/x/Qwen3-VL-8B-Instruct"}, ""),
        ("my_robot", {}, "---\nbase_model: Qwen/Qwen3-VL-8B-Instruct\n---\n"),
    ],
)
def test_what_a_checkpoint_was_made_from_does_not_make_it_qwen(
    tmp_path: Path, name: str, config: dict[str, Any], card: str
) -> None:
    """RoboBrain was made from Qwen's models. Its renamed checkpoints keep RoboBrain's prompts, with a warning."""
    found = identify(read_clues(checkpoint(tmp_path / name, card=card, **config)))
    assert found.profile.name == "robobrain2.5"
    assert "The guess is RoboBrain 2.5" in found.warning


def test_the_own_name_takes_precedence_over_tags(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "RoboBrain2.5-8B-NV", card="---\ntags: [robobrain2.0, Robo-Dopamine]\n---\n")
    assert identify(read_clues(folder)).profile.name == "robobrain2.5"


def test_names_in_messages_are_one_line(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "weights", _name_or_path="Qwen3-VL-thinking\n[FATAL] \x1b[2J")
    assert "\n" not in str(read_clues(folder).names)
    assert all(clue.name.isprintable() for clue in read_clues(folder).names)


def test_sizes_that_no_family_publishes_are_accepted(tmp_path: Path) -> None:
    assert profile_for(checkpoint(tmp_path / "RynnBrain-tiny", hidden_size=64)).name == "rynnbrain"


@pytest.mark.parametrize(
    ("name", "hidden_size", "unpublished"),
    [("RoboBrain2.5-2B", 2048, "RoboBrain 2.5 2B"), ("my-rynnbrain-32b", 5120, "RynnBrain 32B")],
)
def test_a_size_that_the_name_states_but_the_authors_did_not_publish_is_a_warning(
    tmp_path: Path, name: str, hidden_size: int, unpublished: str
) -> None:
    folder = checkpoint(tmp_path / name, hidden_size=hidden_size)
    found = identify(read_clues(folder))
    assert f"as {unpublished}, which its authors did not publish" in found.warning
    assert "Set model_profile to one of " in found.warning
    assert found.profile.family in unpublished


def test_a_byte_order_mark_does_not_hide_the_model_card(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "weights", card="\ufeff---\nbase_model: Alibaba-DAMO-Academy/RynnBrain-2B\n---\n")
    assert identify(read_clues(folder)).profile.name == "rynnbrain"


def test_the_case_of_a_profile_name_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = FAMILY + '\nimport dataclasses\n\nPROFILE = dataclasses.replace(PROFILE, name="Pointer-Pro")\n'
    install(tmp_path / "site", monkeypatch, content)
    assert identify(read_clues(checkpoint(tmp_path / "plain")), "Pointer-Pro").profile.family == "Pointer"
    assert profile_for("pointer-pro").name == "Pointer-Pro"
    assert profile_for("RynnBrain").name == "rynnbrain"


def test_a_server_is_identified_by_its_names() -> None:
    assert check_origin(ModelOrigin(("robot", "Alibaba-DAMO-Academy/RynnBrain-8B"))) == "qwen3_vl"
    assert check_origin(ModelOrigin(("robot",))) == ""
    assert check_origin(ModelOrigin(("robot",)), "mimo-embodied") == "qwen2_5_vl"
    origin = ModelOrigin(("robot", "nvidia/Cosmos-Reason2-2B"))
    found = identify_model(EngineInfo("robot", "qwen3_vl", "vllm", origin=origin))
    assert (found.profile.name, str(found)) == ("cosmos-reason2", "cosmos-reason2 (identified by its name)")
    assert identify_model(EngineInfo("robot", "qwen3_vl", "vllm", origin=ModelOrigin(("robot",)))).warning


ROOT = Path(__file__).resolve().parent.parent
GUIDE = re.findall(r"^```python\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
FAMILY = next(block for block in GUIDE if "PROFILE = Profile(" in block)
"""The file of the invented family in the contributor guide."""
MARKED = f"""{FAMILY}
import dataclasses

PROFILE = dataclasses.replace(PROFILE, special_tokens=frozenset({{"<|pointer|>"}}), template_marks=("pointer system",))
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, content: str, target: str = "PROFILE") -> None:
    """Install a package with an entry point, as pip does."""
    information = folder / "pointer_family-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: pointer-family\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[robobrain_ros.profiles]\npointer = pointer_family:{target}\n")
    (folder / "pointer_family.py").write_text(content)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "pointer_family", raising=False)


def test_the_family_of_the_guide_is_loaded_from_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", monkeypatch, FAMILY)
    folder = checkpoint(tmp_path / "Pointer-8B", hidden_size=4096, card="---\nbase_model: Qwen/Qwen3-VL-8B-Instruct\n---\n")
    found = identify(read_clues(folder))
    profile = found.profile
    assert (profile.family, found.by, profile.prompt(Task.POINT, "the mug")) == ("Pointer", "its name", "Where is the mug?")
    pattern = coordinate_pattern(Task.POINT, profile, FittedSize(640, 480, 640, 480))
    assert re.fullmatch(pattern, "[(120, 300)]")
    assert parse_answer(Task.POINT, "<think>hm</think>[(120, 300)]", profile).points == (Point(120, 300),)
    assert profile.prefix_after_thinking("hm") == "<think>hm</think>"
    plain = checkpoint(tmp_path / "plain")
    assert identify(read_clues(plain), "pointer").profile == profile
    assert "pointer." in identify(read_clues(plain)).warning


def test_a_family_is_identified_by_its_special_tokens_and_its_chat_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", monkeypatch, MARKED)
    by_token, by_decoder = checkpoint(tmp_path / "weights"), checkpoint(tmp_path / "others")
    (by_token / "tokenizer_config.json").write_text(json.dumps({"additional_special_tokens": ["<|pointer|>"]}))
    (by_decoder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {"7": {"content": "<|pointer|>"}}}))
    for folder in (by_token, by_decoder):
        found = identify(read_clues(folder))
        assert (found.profile.family, found.by, found.warning) == ("Pointer", "its special tokens", "")
    for name, content in (
        ("chat_template.jinja", "a pointer system {{ messages }}"),
        ("chat_template.json", '{"chat_template": "a pointer system"}'),
        ("tokenizer_config.json", '{"chat_template": "a pointer system"}'),
    ):
        folder = checkpoint(tmp_path / f"in {name}")
        (folder / name).write_text(content)
        assert identify(read_clues(folder)).by == "its chat template"
    (by_token / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    with pytest.raises(EngineConfigError, match="Its special tokens identify"):
        identify(read_clues(by_token))


@pytest.mark.parametrize(
    ("content", "target", "message"),
    [
        ("raise OSError('no disk')", "PROFILE", r"cannot be loaded \(OSError: no disk\). Repair or uninstall the package"),
        ("", "PROFILE", r"cannot be loaded \(AttributeError: "),
        ("PROFILE = 3", "PROFILE", "is not a Profile"),
        (FAMILY.replace('"pointer"', '"rynnbrain"'), "PROFILE", "has the name rynnbrain, which another profile has. Rename it"),
        (FAMILY.replace('"pointer"', '"auto"'), "PROFILE", "is wrong: name is 'auto'; it must be a name"),
        ("PROFILE = ()", "PROFILE", "has no Profile"),
        (f"{FAMILY}\nimport dataclasses\nPROFILE = dataclasses.replace(PROFILE, names='(')", "PROFILE", "cannot be loaded"),
        ("import sys\nsys.exit('bye')", "PROFILE", r"cannot be loaded \(SystemExit: bye\)"),
    ],
)
def test_a_faulty_package_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, target: str, message: str
) -> None:
    install(tmp_path / "site", monkeypatch, content, target)
    start = r"The model profile pointer of the package pointer-family \(entry point pointer_family:PROFILE\) "
    with pytest.raises(EngineConfigError, match=start + message):
        check_origin(ModelOrigin(("RoboBrain2.0-7B",)))


HOSTILE: list[Any] = [None, 3, 0, "", " a b", "auto", [], ["x"], {"a": 1}, {3: 4}, {}, object(), (3,), frozenset({3}), ".*"]


@pytest.mark.parametrize("field", [each.name for each in dataclasses.fields(Profile)])
def test_a_profile_with_a_value_of_a_wrong_type_never_causes_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """Each value is either rejected with a sentence that names the field, or the profile can be used."""
    known = dataclasses.replace(profile_for("robobrain2.0"), can_think=False)
    folder = checkpoint(tmp_path / "weights")
    rejected = 0
    for value in HOSTILE:
        try:
            profile = dataclasses.replace(known, **({"name": "attack", "names": "attack", field: value}))
        except TypeError:  # Raised in the package of the profile, so that its entry point cannot be loaded.
            rejected += 1
            continue
        if fault := fault_of(profile):
            assert fault.startswith(f"{field} is "), fault
            rejected += 1
            continue
        monkeypatch.setattr(identity, "all_profiles", lambda found=profile: (*PROFILES, found))
        with suppress(EngineConfigError):  # A pattern that every name matches contradicts the model type.
            identify(read_clues(folder))
        assert {task: profile.prompt(task, "x") for task in profile.tasks}
        profile.assistant_prefix(think=True)
    assert rejected >= len(HOSTILE) // 2 or field in ("family", "model_type", "names", "other_names")


def test_the_profiles_of_this_package_have_no_fault() -> None:
    assert [fault_of(profile) for profile in PROFILES] == [""] * len(PROFILES)
    assert set(checks._RULES) == {each.name for each in dataclasses.fields(Profile)}


def test_two_matching_profiles_of_other_packages_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = f"{FAMILY}\nimport dataclasses\nPROFILE = (PROFILE, dataclasses.replace(PROFILE, name='twin', family='Twin'))\n"
    install(tmp_path / "site", monkeypatch, twin)
    folder = checkpoint(tmp_path / "Pointer-8B", hidden_size=4096)
    with pytest.raises(EngineConfigError, match="is identified as several families: Pointer .* and Twin .* Set model_profile"):
        identify(read_clues(folder))
    assert identify(read_clues(folder), "twin").profile.family == "Twin"
