"""Model families. To add a family, add a file with its `Profile` here, or in another package: CONTRIBUTING.md explains both."""

from robobrain_ros.core.profiles.identity import (
    Identified,
    check_origin,
    identify,
    identify_model,
    possible_profiles,
    profile_for,
)
from robobrain_ros.core.profiles.profile import (
    IMAGE_SLOT,
    TEXT_SLOT,
    AnswerForm,
    CoordinateRule,
    Profile,
    Source,
    TaskPrompt,
    Thinking,
)
from robobrain_ros.core.profiles.registry import AUTO, PROFILES, all_profiles
from robobrain_ros.core.profiles.writing import Writing

__all__ = [
    "AUTO",
    "IMAGE_SLOT",
    "PROFILES",
    "TEXT_SLOT",
    "AnswerForm",
    "CoordinateRule",
    "Identified",
    "Profile",
    "Source",
    "TaskPrompt",
    "Thinking",
    "Writing",
    "all_profiles",
    "check_origin",
    "identify",
    "identify_model",
    "possible_profiles",
    "profile_for",
]
