"""What a checkpoint's files state about its family. Nothing is loaded, and files that cannot be read state nothing."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from robobrain_ros.bounds.files import UnreadableFileError, read_small_json, read_small_text
from robobrain_ros.bounds.texts import one_line
from robobrain_ros.errors import EngineConfigError

_LARGEST_CONFIG = 10_000_000
"""Largest config.json in bytes."""
_LARGEST_TEXT = 4 << 20
_LONGEST_NAME = 200
"""Characters of a name that count. Longer names are cut."""
_MOST_TAGS = 100
_CARD = "README.md"
OWN_NAME = "its name"
TAGS = f"tags in {_CARD}"
"""Places of clues."""
_FRONT_MATTER = re.compile(r"\A---[ \t\r]*\n(.{0,65536}?)\n---[ \t\r]*(?:\n|\Z)", re.DOTALL)
_LONGEST_FRONT_MATTER = 70_000
_DEEPEST = 50
"""Deepest brackets of a model card. The time that PyYAML needs for a text grows with the square of their depth."""
_CARD_FIELDS = ("model_name", "base_model", "tags")
_TOKEN_SETTINGS = "tokenizer_config.json"


@dataclass(frozen=True)
class Clue:
    """A name, and the place where it was found as the end of a sentence ("identified by ...")."""

    name: str
    place: str


@dataclass(frozen=True)
class Clues:
    """Names and other facts about a checkpoint, read before it is loaded. Empty fields are unknown.

    :param where: the checkpoint in messages.
    :param type_place: the place of the model type as the subject of a sentence.
    :param names: names of the checkpoint and of the checkpoints that it was made from.
    :param template: the chat template.
    :param hidden_size: width of the language model.
    """

    where: str
    model_type: str = ""
    type_place: str = "config.json"
    names: tuple[Clue, ...] = ()
    template: str = ""
    special_tokens: frozenset[str] = frozenset()
    hidden_size: int = 0


def named_clues(names: tuple[str, ...], model_type: str = "") -> Clues:
    """Return the clues of a model of which only names are known, as on a server."""
    clues = tuple(Clue(_last_part(name), OWN_NAME) for name in dict.fromkeys(names) if name)
    return Clues(one_line(" ".join(names[:1])) or "the model", model_type, "engine.model_type", clues)


def read_clues(path: Path, names: tuple[str, ...] = ()) -> Clues:
    """Return the clues in a checkpoint's folder.

    :param path: the folder, or its config.json.
    :param names: further names of the checkpoint, such as its name on the hub.
    :raises EngineConfigError: config.json is missing or cannot be read.
    """
    folder, file = (path, path / "config.json") if path.is_dir() else (path.parent, path)
    config = _config(file)
    text = config.get("text_config")
    hidden = (text if isinstance(text, dict) else config).get("hidden_size")
    return Clues(
        where=one_line(str(path)),
        model_type=str(config.get("model_type", "")),
        type_place=str(file),
        names=tuple(_names(folder, config, names)),
        template=_template(folder),
        special_tokens=frozenset(_special_tokens(folder)),
        hidden_size=hidden if type(hidden) is int else 0,
    )


def _config(path: Path) -> Mapping[str, Any]:
    try:
        return read_small_json(path, _LARGEST_CONFIG)
    except UnreadableFileError as error:
        raise EngineConfigError(f"{path} cannot be read as a checkpoint's config.json: {error}.") from error


def _names(folder: Path, config: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[Clue]:
    for name in dict.fromkeys(_last_part(name) for name in (*names, _folder_name(folder)) if name):
        yield Clue(name, OWN_NAME)
    origin = config.get("_name_or_path")
    if isinstance(origin, str) and origin:
        yield Clue(_last_part(origin), "_name_or_path in config.json")
    card = _front_matter(folder)
    for field in _CARD_FIELDS:
        value = card.get(field)
        for entry in (value if isinstance(value, list) else [value])[:_MOST_TAGS]:
            if isinstance(entry, str) and entry:
                yield Clue(_last_part(entry), f"{field} in {_CARD}")


def _folder_name(folder: Path) -> str:
    """Return the name of a checkpoint's folder, or its name on the hub if it is in the cache of a hub."""
    folder = folder.absolute()
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.rpartition("--")[2]
    return folder.name.replace("___", ".")


def _last_part(name: str) -> str:
    return one_line(name.rstrip("/").rpartition("/")[2])[:_LONGEST_NAME]


def _text(path: Path) -> str:
    try:
        return read_small_text(path, _LARGEST_TEXT).removeprefix("\ufeff")  # Some editors write a byte-order mark.
    except UnreadableFileError:
        return ""


def _front_matter(folder: Path) -> Mapping[str, Any]:
    """Return the YAML at the beginning of the model card, or nothing."""
    found = _FRONT_MATTER.match(_text(folder / _CARD)[:_LONGEST_FRONT_MATTER])
    try:
        # BaseLoader reads all values as texts, and does not expand merge keys, which can grow without limit.
        content = yaml.load(found[1], Loader=yaml.BaseLoader) if found and _depth(found[1]) <= _DEEPEST else None
    except Exception:  # A card that cannot be read states nothing.
        return {}
    return content if isinstance(content, dict) else {}


def _depth(text: str) -> int:
    """Return how deep the brackets of a text are nested."""
    depth = deepest = 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        deepest = max(deepest, depth)
    return deepest


def _settings(path: Path) -> Mapping[str, Any]:
    try:
        return read_small_json(path, _LARGEST_TEXT)
    except (UnreadableFileError, json.JSONDecodeError):
        return {}


def _template(folder: Path) -> str:
    own = _text(folder / "chat_template.jinja")
    return (
        own
        or str(_settings(folder / "chat_template.json").get("chat_template", ""))
        or str(_settings(folder / _TOKEN_SETTINGS).get("chat_template", ""))
    )


def _special_tokens(folder: Path) -> Iterator[str]:
    settings = _settings(folder / _TOKEN_SETTINGS)
    added = settings.get("added_tokens_decoder")
    for token in added.values() if isinstance(added, dict) else ():
        if isinstance(token, dict) and isinstance(token.get("content"), str):
            yield token["content"]
    further = settings.get("additional_special_tokens")
    for token in further if isinstance(further, list) else ():
        if isinstance(token, str):
            yield token
