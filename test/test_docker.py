"""The container recipe, as far as it can be tested without a container engine."""

import fnmatch
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ros_rig import LIMIT, rig

from robobrain_ros.ros.process import shutdown

KNOWN_TO_DEBIAN = {"g++", "python3-dev", "python3-venv"}
"""Packages of the recipe that package.xml cannot name. scripts/setup_env.py names the same packages."""
RECIPE_ROOT = "/ws/src/robobrain_ros/"
"""Folder of this repository in the container."""


def instructions(repository: Path) -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile in order, without comments and line continuations."""
    text = (repository / "docker" / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def test_instructions_are_dockers_in_an_order_that_works(repository: Path) -> None:
    names = [name for name, _ in instructions(repository)]
    allowed = {"FROM", "SHELL", "WORKDIR", "COPY", "RUN", "ENV", "VOLUME", "USER", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    allowed.add("STOPSIGNAL")
    assert set(names) <= allowed
    assert names[0] == "FROM"
    assert names.index("USER") > len(names) - 1 - names[::-1].index("RUN"), "what installs runs as root"


def test_what_is_copied_is_there_and_not_ignored(repository: Path) -> None:
    ignored = (repository / ".dockerignore").read_text().split()
    copied = [rest.split()[:-1] for name, rest in instructions(repository) if name == "COPY"]
    assert copied
    for source in (source for sources in copied for source in sources):
        assert (repository / source).exists(), source
        assert not any(fnmatch.fnmatch(source.rstrip("/"), pattern) for pattern in ignored), source


def test_what_must_not_be_copied_is_ignored(repository: Path) -> None:
    """Everything that git ignores, and git's own folder, because they contain gigabytes, and a key in docker/.env."""
    ignored = (repository / ".dockerignore").read_text().split()
    assert {".git", ".venv", "build", "install", "log", "docker/.env"} <= set(ignored)
    for pattern in (repository / ".gitignore").read_text().split():
        assert {pattern.rstrip("/"), f"**/{pattern.rstrip('/')}"} & set(ignored), pattern


def test_installed_packages_and_requirements_are_known(repository: Path) -> None:
    runs = " ".join(rest for name, rest in instructions(repository) if name == "RUN")
    (packages,) = re.findall(r"--no-install-recommends ([^&]+) &&", runs)
    assert set(packages.split()) == KNOWN_TO_DEBIAN
    skipped = re.findall(r"--skip-keys (\S+)", runs)
    manifest = (repository / "package.xml").read_text()
    assert all(f"<exec_depend>{key}</exec_depend>" in manifest for key in skipped)
    requirements = re.findall(r"-r src/robobrain_ros/(\S+)", runs)
    assert len(requirements) == 3
    assert all((repository / file).is_file() for file in requirements)


def test_programs_of_the_recipe_are_in_the_repository(repository: Path) -> None:
    said = dict(instructions(repository))
    paths = re.findall(rf'"{RECIPE_ROOT}([^"]+)"', said["ENTRYPOINT"] + said["HEALTHCHECK"])
    assert len(paths) == 3
    for path in paths:
        assert (repository / path).is_file()
    entrypoint = repository / "docker" / "entrypoint.sh"
    assert entrypoint.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(entrypoint)], check=True, timeout=LIMIT)
    assert json.loads(said["CMD"])[3] == "robobrain.launch.py"


def test_compose_gives_what_the_node_needs(repository: Path) -> None:
    file = repository / "docker" / "compose.yaml"
    service = yaml.safe_load(file.read_text(encoding="utf-8"))["services"]["robobrain"]
    assert (file.parent / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert (service["network_mode"], service["ipc"]) == ("host", "host")
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    (volume,) = (rest for name, rest in instructions(repository) if name == "VOLUME")
    assert [entry.split(":")[1] for entry in service["volumes"]] == [volume]
    declared = (repository / "launch" / "robobrain.launch.py").read_text(encoding="utf-8")
    for argument in (part.partition(":=")[0] for part in service["command"] if ":=" in part):
        assert f'"{argument}"' in declared


@pytest.mark.timeout(2 * LIMIT)
def test_the_health_check_tells_an_active_node_from_others(repository: Path) -> None:
    def check(name: str) -> tuple[int, str]:
        command = [sys.executable, str(repository / "docker" / "healthcheck.py"), name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        return done.returncode, done.stderr

    with rig(autostart=False) as it:
        name = it.node.get_fully_qualified_name()
        code, said = check(name)
        assert (code, "is unconfigured" in said) == (1, True)
        code, said = check(f"{name}_of_nobody")
        assert (code, "There is no node" in said) == (1, True)
    with rig() as it:
        assert check(it.node.get_fully_qualified_name()) == (0, "")


def test_stopping_a_container_reaches_the_node_and_waits_for_it(repository: Path) -> None:
    """As process 1, `ros2 launch` ends after SIGINT, but not after SIGTERM."""
    service = yaml.safe_load((repository / "docker" / "compose.yaml").read_text(encoding="utf-8"))["services"]["robobrain"]
    assert service["stop_signal"] == "SIGINT"
    assert ("STOPSIGNAL", "SIGINT") in instructions(repository)
    launch = (repository / "launch" / "robobrain.launch.py").read_text(encoding="utf-8")
    extra = re.search(r"sigterm_timeout=str\(shutdown\.LIMIT \+ ([0-9.]+)\)", launch)
    assert extra is not None
    assert (
        shutdown.FORCED
        < shutdown.LIMIT
        < shutdown.LIMIT + float(extra.group(1))
        < float(service["stop_grace_period"].rstrip("s"))
    )
    assert shutdown.RESPONSES + shutdown.ENGINE < shutdown.FORCED
