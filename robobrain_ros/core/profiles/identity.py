"""Identify the family of a checkpoint: by the parameter ``model_profile``, by what the checkpoint states, or by a guess."""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robobrain_ros.bounds.texts import shortened
from robobrain_ros.core.profiles.clues import OWN_NAME, TAGS, Clues, named_clues, read_clues
from robobrain_ros.core.profiles.profile import Profile
from robobrain_ros.core.profiles.registry import AUTO, GENERAL, all_profiles, named_profile, supported
from robobrain_ros.engine.base import EngineInfo, ModelOrigin
from robobrain_ros.errors import EngineConfigError

_LONGEST = 200
_ROBOBRAIN = re.compile(r"robo[-_ ]?brain", re.IGNORECASE)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identified:
    """The profile of a checkpoint.

    :param by: how the family was identified, as the end of a sentence.
    :param warning: a sentence if the family is a guess among several, otherwise empty.
    """

    profile: Profile
    by: str
    warning: str = ""

    def __str__(self) -> str:
        return f"{self.profile.name} (identified by {self.by})"


@dataclass(frozen=True)
class _Match:
    profile: Profile
    place: str
    rejected: str = ""
    """The name, if it is that of a checkpoint that has other prompts than the family."""


def profile_for(where: str | Path) -> Profile:
    """Return the profile of a model family. If that of a checkpoint is a guess, log a warning.

    :param where: the name of a profile such as "rynnbrain", or a ``model_type`` such as "qwen2_5_vl", which means RoboBrain, or a
        checkpoint's folder, or its config.json.
    :raises EngineConfigError: the file does not exist, or the family is unknown or contradictory.
    """
    wanted = str(where).lower()
    named = next((profile for profile in all_profiles() if wanted in (profile.name.lower(), profile.model_type)), None)
    if named is not None:
        return named
    path = Path(where)
    if not os.path.exists(path):  # Unlike Path.exists, false if the name cannot be read.
        raise EngineConfigError(
            f"{str(where)!r} is neither a known model type nor the folder of a checkpoint. Known model types are "
            f"{supported(all_profiles())}."
        )
    found = identify(read_clues(path))
    if found.warning:
        _log.warning("%s", found.warning)
    return found.profile


def identify_model(info: EngineInfo, chosen: str = AUTO) -> Identified:
    """Identify the family of the model that an engine serves.

    :param chosen: see `identify`.
    :raises EngineConfigError: see `identify`.
    """
    origin = info.origin
    if origin.folder is not None:
        return identify(read_clues(origin.folder, origin.names), chosen)
    return identify(named_clues(origin.names or (info.model,), info.model_type), chosen)


def check_origin(origin: ModelOrigin, chosen: str = AUTO) -> str:
    """Identify a model that is not loaded yet, and return its model type.

    :returns: the model type, or an empty text if only names are known and they do not tell it.
    :raises EngineConfigError: see `identify`.
    """
    types = {profile.model_type for profile in possible_profiles(origin, chosen)}
    return types.pop() if len(types) == 1 else ""


def possible_profiles(origin: ModelOrigin, chosen: str = AUTO) -> tuple[Profile, ...]:
    """Return the profiles that a model that is not loaded yet can have.

    :returns: one profile; or those of a family, or nothing, if only names are known.
    :raises EngineConfigError: see `identify`.
    """
    if origin.folder is not None:
        return (identify(read_clues(origin.folder, origin.names), chosen).profile,)
    profiles = all_profiles()
    if chosen != AUTO:
        return (named_profile(chosen, profiles),)
    return tuple(match.profile for match in _matches(named_clues(origin.names), profiles))


def identify(clues: Clues, chosen: str = AUTO) -> Identified:
    """Identify the family of a checkpoint.

    :param chosen: name of a profile, or `AUTO`.
    :raises EngineConfigError: no profile has this name, the model type is not supported, or the clues contradict each other.
    """
    profiles = all_profiles()
    where = shortened(clues.where, _LONGEST)
    fitting = [profile for profile in profiles if profile.model_type == clues.model_type]
    if not fitting:
        raise EngineConfigError(
            f"The checkpoint in {where} has the unknown model type {clues.model_type[:_LONGEST]!r}. Known model types are "
            f"{supported(profiles)}."
        )
    if chosen != AUTO:
        profile = named_profile(chosen, profiles)
        if profile not in fitting:
            raise _wrong_type(f"model_profile is {profile.name}", clues, profile.model_type, f"one of {_names(fitting)}")
        return Identified(profile, "model_profile")
    matches = _matches(clues, profiles)
    if not matches:
        return _guess(clues, where, fitting)
    match = next((match for match in matches if match.profile.model_type == clues.model_type), None)
    if match is None:
        said = f"{_subject(matches[0].place)} {where} as {matches[0].profile.family}"
        raise _wrong_type(said, clues, matches[0].profile.model_type, f"one of {_names(fitting)}")
    return Identified(match.profile, match.place, _check_size(match, clues, where, fitting))


def _matches(clues: Clues, profiles: Sequence[Profile]) -> list[_Match]:
    """Return the profiles of the family that the clues name, or nothing.

    :raises EngineConfigError: they name several families, or a checkpoint that has other prompts.
    """
    found: dict[str, _Match] = {}
    for clue in clues.names:
        if clue.name == clues.model_type:
            continue  # Such a folder or tag states no more than the model type, which all families of the architecture share.
        # RoboBrain and other families are made from Qwen's models, and often state only those. So the name of such a model
        # identifies it only in the checkpoint's own name.
        derived = clue.place != OWN_NAME or _ROBOBRAIN.search(clue.name) is not None
        for profile in profiles:
            if derived and profile.name in GENERAL:
                continue
            if profile.rejects(clue.name):
                found.setdefault(profile.name, _Match(profile, clue.place, clue.name))
            elif profile.is_named_in(clue.name):
                found.setdefault(profile.name, _Match(profile, clue.place))
    if any(match.place == OWN_NAME for match in found.values()):  # Tags may also name data and other models.
        found = {name: match for name, match in found.items() if match.place != TAGS}
    for profile in profiles:
        if profile.template_marks and all(mark in clues.template for mark in profile.template_marks):
            found.setdefault(profile.name, _Match(profile, "its chat template"))
        if profile.special_tokens and profile.special_tokens <= clues.special_tokens:
            found.setdefault(profile.name, _Match(profile, "its special tokens"))
    origins = {name for match in found.values() for name in match.profile.based_on}
    matches = [match for name, match in found.items() if name not in origins]
    families = dict.fromkeys(match.profile.family for match in matches)
    if len(families) > 1:
        said = " and ".join(
            f"{family} ({next(match.place for match in matches if match.profile.family == family)})" for family in families
        )
        raise EngineConfigError(
            f"{shortened(clues.where, _LONGEST)} is identified as several families: {said}. Set model_profile to one of "
            f"{', '.join(match.profile.name for match in matches)}."
        )
    if rejected := next((match for match in matches if match.rejected), None):
        profile = rejected.profile
        raise EngineConfigError(
            f"{rejected.rejected} is a checkpoint of the authors of {profile.family} that has other prompts, which are not "
            f"supported. To use those of {profile.family}, set model_profile to {profile.name}."
        )
    return matches


def _guess(clues: Clues, where: str, fitting: Sequence[Profile]) -> Identified:
    guess, others = fitting[0], fitting[1:]
    warning = (
        f"Nothing in the name or the files of {where} identifies its model family, and its model type {clues.model_type} fits "
        f"several. The guess is {guess.family} ({guess.name}). If the checkpoint is of another family, its answers are wrong. "
        f"Set model_profile to {guess.name} or to one of {_names(others)}."
    )
    return Identified(guess, f"model_type {clues.model_type}, a guess", warning if others else "")


def _check_size(match: _Match, clues: Clues, where: str, fitting: Sequence[Profile]) -> str:
    """Reject a checkpoint that has a size of another family, unless its own name states this size.

    :returns: a warning if the checkpoint's name states a size that the family's authors did not publish, otherwise an empty text.
    :raises EngineConfigError: config.json has a size of another family.
    """
    profile = match.profile
    if not profile.sizes or clues.hidden_size in profile.sizes:
        return ""
    others = [other for other in fitting if clues.hidden_size in other.sizes]
    if not others:
        return ""
    size = others[0].sizes[clues.hidden_size]
    if any(clue.place == OWN_NAME and profile.is_named_in(clue.name) and _states(size, clue.name) for clue in clues.names):
        return (
            f"{_subject(match.place)} {where} as {profile.family} {size}, which its authors did not publish. They published "
            f"{' and '.join(profile.sizes.values())}. If the checkpoint is of another family, its answers are wrong. Set "
            f"model_profile to one of {_names(fitting)}."
        )
    raise EngineConfigError(
        f"{_subject(match.place)} {where} as {profile.family}, which has the hidden_size {_sizes(profile)}, but "
        f"hidden_size {clues.hidden_size} in config.json is that of {others[0].family} {size}. Use all files of one checkpoint, "
        f"or set model_profile to one of {_names(fitting)}."
    )


def _states(size: str, name: str) -> bool:
    """Return whether a checkpoint's name states this size, such as "2B"."""
    return re.search(rf"(?<![\d.]){size}(?![a-z0-9])", name, re.IGNORECASE) is not None


def _wrong_type(said: str, clues: Clues, needed: str, choices: str) -> EngineConfigError:
    place = shortened(clues.type_place, _LONGEST)
    return EngineConfigError(
        f"{said}, which has the model type {needed}, but {place} states {clues.model_type}. Use all files of one checkpoint, or "
        f"set model_profile to {choices}."
    )


def _subject(place: str) -> str:
    """Return the place as the subject of a sentence, with its verb."""
    subject = place[0].upper() + place[1:] if place.startswith("its ") else place
    return f"{subject} {'identify' if subject.startswith('Its special tokens') or place.startswith('tags ') else 'identifies'}"


def _sizes(profile: Profile) -> str:
    return " or ".join(f"{size} ({name})" for size, name in profile.sizes.items())


def _names(profiles: Sequence[Profile]) -> str:
    return ", ".join(profile.name for profile in profiles)
