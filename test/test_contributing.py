"""CONTRIBUTING.md, the workflows and the hooks name files, targets and modules that exist. Files in git are small."""

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
ROWS = [re.split(r" \| ?", line.strip("| ")) for line in PAGE.splitlines() if line.startswith("| ") and "| edit |" not in line]
TARGETS = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
LARGEST_FILE = 1 << 20
"""Most bytes of a file in git."""
WEIGHTS = "robobrain_ros/demo/model/model.safetensors"
"""The weights of the demo model. No other file can be larger than the limit."""
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yaml"))


def named_paths() -> list[str]:
    """Return the texts in backticks that look like paths of the repository."""
    quoted = set(re.findall(r"`([\w./-]+)`", PAGE))
    return sorted(name for name in quoted if "/" in name or name.endswith((".md", ".txt", ".rst", ".py")))


@pytest.mark.parametrize("path", named_paths())
def test_each_named_file_exists(path: str) -> None:
    assert (REPOSITORY / path).exists()


def paths_of_the_tree() -> list[str]:
    """Return the folders and files of the tree under *Where things are*, without a slash at the end."""
    (tree,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    paths, parents = [], [""]
    for line in tree.splitlines():
        names = re.split(r"  +", line.lstrip("│├└─ "))[0].split()
        depth = (len(line) - len(line.lstrip("│├└─ "))) // 4
        parents[depth + 1 :] = [f"{parents[depth]}{names[0]}"]
        paths += [f"{parents[depth]}{name}".rstrip("/") for name in names]
    return paths


def test_the_tree_shows_existing_files_and_every_package() -> None:
    paths = paths_of_the_tree()
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []
    files = [file for pattern in ("*/__init__.py", "*/*/__init__.py") for file in (REPOSITORY / "robobrain_ros").glob(pattern)]
    packages = {str(file.parent.relative_to(REPOSITORY)) for file in files}
    assert packages, "there are packages to show"
    assert [package for package in sorted(packages) if not any(f"{path}/".startswith(f"{package}/") for path in paths)] == []


def test_the_table_has_the_everyday_changes_with_files_and_a_test() -> None:
    assert len(ROWS) >= 12
    for row in ROWS:
        assert "`" in row[1], f"no file: {row[0]}"
        assert re.search(r"`test/\w+\.py`", row[-1]), f"no test: {row[0]}"


def test_each_named_module_and_target_exists() -> None:
    commands = PAGE + "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    for module in re.findall(r"python -m ([\w.]+)", commands):
        assert find_spec(module), module
    targets = set(re.findall(r"\bmake ([a-z]+)", commands))
    assert "test" in targets
    assert targets <= TARGETS


@pytest.mark.parametrize("name", re.findall(r"\((?:one row of )?`([A-Z]\w+)`", PAGE))
def test_each_named_class_or_table_exists(name: str) -> None:
    folders = ("robobrain_ros", "scripts", "test")
    sources = "".join(path.read_text(encoding="utf-8") for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))
    assert re.search(rf"^(class )?{name}\b", sources, re.MULTILINE)


@pytest.mark.parametrize("path", [*WORKFLOWS, *sorted((REPOSITORY / ".github" / "ISSUE_TEMPLATE").iterdir()),
                                  REPOSITORY / ".pre-commit-config.yaml"], ids=lambda path: path.name)  # fmt: skip
def test_yaml_of_hooks_workflows_and_templates_can_be_read(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def tracked_files() -> list[str]:
    """Return the files that git tracks, including staged files. Without git, skip the test."""
    git = shutil.which("git")
    if git is None or not (REPOSITORY / ".git").exists():
        pytest.skip("git is not installed, or this is not a git checkout")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip(f"git cannot list the files: {listed.stderr.strip()}")
    return listed.stdout.rstrip("\0").split("\0")


def test_tracked_files_are_small() -> None:
    """The history keeps an archive or a checkpoint even after its removal."""
    files = tracked_files()
    sizes = {path: path.lstat().st_size for path in map(REPOSITORY.joinpath, files) if path.is_file()}
    large = sorted(str(path.relative_to(REPOSITORY)) for path, size in sizes.items() if size > LARGEST_FILE)
    assert large == [WEIGHTS], f"remove these files from the commit; they exceed {LARGEST_FILE} bytes: {set(large) - {WEIGHTS}}"
