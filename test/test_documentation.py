"""What the documentation says of names, defaults and files, against the code."""

import re
from pathlib import Path

import pytest

from robobrain_ros.errors import OutcomeCode
from robobrain_ros.ros.parameters import to_markdown

REPOSITORY = Path(__file__).resolve().parent.parent
IGNORED = {"build", "install", "log", ".venv", ".git"}
PAGES = [
    path.relative_to(REPOSITORY)
    for path in sorted(REPOSITORY.rglob("*.md"))
    if not IGNORED & set(path.relative_to(REPOSITORY).parts)
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", (REPOSITORY / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, by the rule that GitHub and mkdocs share for them."""
    titles = re.findall(r"^#+ +(.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", title).strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (REPOSITORY / page).parent.joinpath(path).resolve() if path else REPOSITORY / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target.relative_to(REPOSITORY)), f"{page}: {link}"


def test_the_readmes_parameters_are_those_of_the_node(repository: Path) -> None:
    """Names, and defaults where the README does not put them in words."""
    known = dict(re.findall(r"^\| `(\S+)` \| [a-z ]+ \| `(.*?)` \|", to_markdown(), re.MULTILINE))
    text = (repository / "README.md").read_text(encoding="utf-8").split("## Parameters")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\S+)` \| (.*?) \|", text, re.MULTILINE)
    assert len(rows) >= 5
    for name, default in rows:
        assert name in known
        if default != "the demo model":
            assert default.strip("`") == known[name]


def test_troubleshooting_knows_every_outcome(repository: Path) -> None:
    text = (repository / "docs" / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
    for code in set(OutcomeCode) - {OutcomeCode.OK, OutcomeCode.CANCELED}:
        assert f"| `{code.name}` |" in text


def test_troubleshooting_quotes_what_the_engine_says(repository: Path) -> None:
    text = (repository / "docs" / "how-to" / "troubleshooting.md").read_text(encoding="utf-8").split("## Requests fail")[0]
    code = "".join(path.read_text(encoding="utf-8") for path in (repository / "robobrain_ros").rglob("*.py"))
    quotes = re.findall(r"^\| `(.*?)` \|", text, re.MULTILINE)
    assert len(quotes) > 6
    for quote in quotes:
        words = max(re.split(r"\.\.\.|\d+", quote), key=len).strip()
        assert words in code, f"nothing says {words!r}"


def test_each_fault_names_a_test_that_exists(repository: Path) -> None:
    """The last cell of each row of the fault table is a list of `file.py::test`."""
    text = (repository / "docs" / "reference" / "faults.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| fault |")]
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 4, f"four cells are expected: {row}"
        assert all(cells), f"an empty cell: {row}"
        names = re.findall(r"`(test_\w+\.py)::(test_\w+)`", cells[3])
        assert names, f"no test is named: {row}"
        for file, test in names:
            code = (repository / "test" / file).read_text(encoding="utf-8")
            assert re.search(rf"^ *(async )?def {test}\(", code, re.MULTILINE), f"{file} has no {test}"
