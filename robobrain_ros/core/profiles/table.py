"""The table of model profiles in docs/reference/models.md."""

from robobrain_ros.core.profiles.profile import CoordinateRule, Profile
from robobrain_ros.core.profiles.registry import PROFILES

_UNITS = {CoordinateRule.PIXELS_OF_MODEL_IMAGE: "pixels", CoordinateRule.THOUSANDTHS: "0 to 1000"}


def to_markdown() -> str:
    """Return the table of the profiles of this package."""
    head = (
        "`model_profile`",
        "family",
        "`model_type`",
        "identified by names such as",
        "coordinates",
        "tasks",
        "thinks",
        "source",
    )
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(_row(profile))} |" for profile in PROFILES)]
    return "".join(f"{line}\n" for line in lines)


def _row(profile: Profile) -> tuple[str, ...]:
    spatial = any(task.spatial for task in profile.tasks)
    return (
        f"`{profile.name}`",
        profile.family,
        f"`{profile.model_type}`",
        ", ".join(profile.examples) or "not published yet",
        _UNITS[profile.coordinates] if spatial else "none",
        ", ".join(sorted(f"`{task.value}`" for task in profile.tasks)),
        _thinks(profile),
        ", ".join(dict.fromkeys(map(str, _sources(profile)))),
    )


def _thinks(profile: Profile) -> str:
    if profile.thinking is None:
        return "no"
    return "always" if profile.thinking.always else "on request"


def _sources(profile: Profile) -> list[object]:
    return [profile.source, *(prompt.source for prompt in profile.prompts.values() if prompt.source is not None)]
