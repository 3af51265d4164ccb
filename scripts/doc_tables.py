"""Write config/robobrain.yaml and the generated parts of docs/: tables of messages, outcomes, parameters and models, and files.

    . scripts/env.sh && python scripts/doc_tables.py

A table is between `<!-- table: NAME -->` and `<!-- end of table -->`, or the end of the page. A file is between
`<!-- file: PATH -->` and `<!-- end of file -->`. A test checks that the written files are up to date.
"""

import re
from collections.abc import Callable
from pathlib import Path

from robobrain_ros.core.profiles import table
from robobrain_ros.engine import presets
from robobrain_ros.ros.parameters.documents import to_markdown, to_yaml

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

RESULTS = (
    "Affordances",
    "AffordancePoint",
    "AffordanceArea",
    "Trajectory",
    "Waypoint",
    "TraceIssue",
    "ApproachPose",
    "Plan",
    "PlanStep",
    "TextAnswer",
    "Progress",
    "Event",
)
COMMON = ("QueryOptions", "Outcome", "InferenceReport")
PLANNING = ("PlanContext", "Robot", "Skill", "Place", "DoneStep")
PARTS = {"srv": ("request", "response"), "action": ("goal", "result", "feedback")}

_MARKS = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end of table -->\n|\Z)", re.DOTALL)
_FILES = re.compile(r"(<!-- file: (\S+) -->\n)(.*?)(<!-- end of file -->\n)", re.DOTALL)
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".cpp": "cpp", ".xml": "xml"}
_FIELD = re.compile(r"(?P<type>[\w/\[\]]+) +(?P<name>\w+)(?:=(?P<value>\d+))? +# (?P<comment>.*)")
_COMMENT = re.compile(r"# (?P<comment>.*)")


def field_table(lines: list[str]) -> str:
    """Return a Markdown table of the fields and constants of one part of an interface."""
    rows: list[list[str]] = []
    above: list[str] = []  # The comment lines above a field. `ros2 interface show` shows nested fields below the field.
    for line in lines:
        field, comment = _FIELD.fullmatch(line), _COMMENT.fullmatch(line)
        if field:
            value = f" = {field['value']}" if field["value"] else ""
            rows.append([f"`{field['name']}`{value}", f"`{field['type']}`", " ".join([field["comment"], *above])])
            above = []
        elif comment:
            above.append(comment["comment"])
    cells = "".join("| " + " | ".join(row).replace("<", "&lt;") + " |\n" for row in rows)
    return f"| field or constant | type | meaning |\n|---|---|---|\n{cells}"


def interface(kind: str, name: str) -> str:
    """Return the section of one interface file: its first comment, and a table for each part."""
    title, *lines = (ROOT / kind / f"{name}.{kind}").read_text(encoding="utf-8").splitlines()
    parts = "\n".join(lines).split("\n---\n")
    tables = [field_table(part.splitlines()) for part in parts]
    labelled = [f"*{label}*\n\n{table}" for label, table in zip(PARTS.get(kind, ("",)), tables, strict=True)]
    return f"### {name}\n\n{title.removeprefix('# ')}\n\n" + "\n".join(tables if kind == "msg" else labelled)


def interfaces(kind: str, names: tuple[str, ...]) -> str:
    """Return the sections of several interface files."""
    return "\n" + "\n".join(interface(kind, name) for name in names) + "\n"


def _all(kind: str) -> tuple[str, ...]:
    return tuple(path.stem for path in sorted((ROOT / kind).iterdir()))


def outcomes() -> str:
    """Return a Markdown table of the constants in Outcome.msg."""
    lines = (ROOT / "msg" / "Outcome.msg").read_text(encoding="utf-8").splitlines()
    found = [field for field in map(_FIELD.fullmatch, lines) if field and field["value"]]
    rows = "".join(f"| `{field['name']}` | {field['value']} | {field['comment']} |\n" for field in found)
    return f"| outcome | code | meaning |\n|---|---|---|\n{rows}"


TABLES: dict[str, Callable[[], str]] = {
    "results": lambda: interfaces("msg", RESULTS),
    "common": lambda: interfaces("msg", COMMON),
    "planning": lambda: interfaces("msg", PLANNING),
    "services": lambda: interfaces("srv", _all("srv")),
    "actions": lambda: interfaces("action", _all("action")),
    "outcomes": outcomes,
    "parameters": to_markdown,
    "models": presets.to_markdown,
    "profiles": table.to_markdown,
}
"""All tables by their names in the marks."""


def block(path: str) -> str:
    """Return a file of the repository as a code block."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return f"```{_LANGUAGES[Path(path).suffix]}\n{text}```\n"


def write(page: str) -> str:
    """Return the text of a page with new tables and files."""
    page = _MARKS.sub(lambda found: found[1] + TABLES[found[2]]() + found[4], page)
    return _FILES.sub(lambda found: found[1] + block(found[2]) + found[4], page)


def generated() -> dict[Path, str]:
    """Return the new text of each file that this program writes."""
    pages = {path: write(path.read_text(encoding="utf-8")) for path in sorted(DOCS.rglob("*.md"))}
    return {ROOT / "config" / "robobrain.yaml": to_yaml(), **pages}


def main() -> None:
    """Write the files that changed. If one text cannot be generated, no file changes."""
    for path, text in generated().items():
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
            print(f"{path.relative_to(ROOT)} is written.")


if __name__ == "__main__":
    main()
