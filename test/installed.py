"""Find the sources from which an installed package was built."""

from pathlib import Path

GENERATED = ("msg", "srv", "action")
"""Packages of messages, which the build generates."""


def installation_fault(installed: Path, source: Path) -> str:
    """Return why tests of ``source`` must not run against ``installed``, and what to do. Empty: they can run.

    :param installed: folder of the installed Python package. It contains links to the sources, or copies of them.
    :param source: folder of the same package in the checkout of the tests.
    """
    linked = next((path.resolve() for path in sorted(installed.glob("*.py")) if path.is_symlink() and path.exists()), None)
    if linked is not None and linked.parent != source.resolve():
        return (
            f"The installed robobrain_ros links to another checkout, {linked.parent.parent}, but these tests are in "
            f"{source.parent}: run `make build` and `. scripts/env.sh` there."
        )
    for path in sorted(source.rglob("*.py")):
        module = path.relative_to(source)
        target = installed / module
        if not target.is_file():
            return f"The build is older than the new module robobrain_ros/{module}: run `make build`."
        if target.resolve() != path.resolve() and target.read_bytes() != path.read_bytes():
            return f"The build is a copy with another robobrain_ros/{module}: run `make build`."
    for path in sorted(installed.rglob("*.py")):
        module = path.relative_to(installed)
        if module.parts[0] not in GENERATED and path.is_file() and not (source / module).is_file():
            return f"The build has robobrain_ros/{module}, which this checkout has not: run `make clean build`."
    return ""
