"""All profiles: those of this package, and those of other packages (entry point group ``robobrain_ros.profiles``)."""

import sys
from collections.abc import Iterable
from functools import lru_cache
from importlib import metadata

from robobrain_ros.bounds.texts import one_line, shortened
from robobrain_ros.core.profiles import (
    cosmos_reason2,
    embodied_r1,
    embodied_r1_5,
    grm,
    mimo_embodied,
    qwen2_5_vl,
    qwen3_vl,
    robobrain2_0,
    robobrain2_5,
    rynnbrain,
)
from robobrain_ros.core.profiles.checks import fault_of
from robobrain_ros.core.profiles.profile import Profile
from robobrain_ros.errors import EngineConfigError

GROUP = "robobrain_ros.profiles"
"""The group of entry points. Each refers to a `Profile`, or to several in a tuple or list."""
AUTO = "auto"
"""Value of ``model_profile`` that means: identify the checkpoint."""
PROFILES: tuple[Profile, ...] = (
    robobrain2_0.PROFILE,
    robobrain2_5.PROFILE,
    *grm.PROFILES,
    qwen2_5_vl.PROFILE,
    qwen3_vl.PROFILE,
    embodied_r1.PROFILE,
    embodied_r1_5.PROFILE,
    rynnbrain.PROFILE,
    cosmos_reason2.PROFILE,
    mimo_embodied.PROFILE,
)
"""The profiles of this package. The first one of a model type is the guess for checkpoints that nothing else identifies."""
GENERAL = frozenset({qwen2_5_vl.PROFILE.name, qwen3_vl.PROFILE.name})
"""Families that the others were made from."""
_LONGEST_REASON = 200


def all_profiles() -> tuple[Profile, ...]:
    """Return the profiles of this package, then those of other packages.

    :raises EngineConfigError: an entry point cannot be loaded, is no profile, or has the name of another profile.
    """
    return _with_external(tuple(sys.path))


@lru_cache(maxsize=1)
def _with_external(_path: tuple[str, ...]) -> tuple[Profile, ...]:
    """Return all profiles of the packages on this path. They are cached, because reading all packages takes 0.1 s."""
    profiles = list(PROFILES)
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        package = entry.dist.name if entry.dist is not None else "unknown"
        where = f"The model profile {entry.name} of the package {package} (entry point {entry.value})"
        for profile in _load(entry, where):
            if any(profile.name.lower() == known.name.lower() for known in profiles):
                raise EngineConfigError(f"{where} has the name {profile.name}, which another profile has. Rename it.")
            profiles.append(profile)
    return tuple(profiles)


def named_profile(name: str, profiles: Iterable[Profile]) -> Profile:
    """Return the profile with this name. Case does not matter.

    :raises EngineConfigError: there is none.
    """
    profiles = tuple(profiles)
    for profile in profiles:
        if profile.name.lower() == name.strip().lower():
            return profile
    known = ", ".join(profile.name for profile in profiles)
    quoted = shortened(repr(name), _LONGEST_REASON)
    raise EngineConfigError(f"model_profile is {quoted}. It must be auto or one of {known}.")


def supported(profiles: Iterable[Profile]) -> str:
    """Return the model types and their families as a clause, such as "qwen3_vl (RoboBrain 2.5, ...)"."""
    types: dict[str, dict[str, None]] = {}
    for profile in profiles:
        types.setdefault(profile.model_type, {})[profile.family] = None
    return " and ".join(f"{model_type} ({', '.join(families)})" for model_type, families in types.items())


def _load(entry: metadata.EntryPoint, where: str) -> tuple[Profile, ...]:
    try:
        found = entry.load()
    except (Exception, SystemExit) as error:
        reason = shortened(one_line(f"{type(error).__name__}: {error}"), _LONGEST_REASON)
        raise EngineConfigError(f"{where} cannot be loaded ({reason}). Repair or uninstall the package.") from error
    profiles = tuple(found) if isinstance(found, (tuple, list)) else (found,)
    if not all(isinstance(profile, Profile) for profile in profiles):
        raise EngineConfigError(f"{where} is not a Profile. Repair or uninstall the package.")
    if not profiles:
        raise EngineConfigError(f"{where} has no Profile. Repair or uninstall the package.")
    for profile in profiles:
        if fault := fault_of(profile):
            raise EngineConfigError(f"{where} is wrong: {fault}. Repair or uninstall the package.")
    return profiles
