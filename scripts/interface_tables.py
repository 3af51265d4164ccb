"""Writes the tables of fields in docs/how-to/plan_service.md from the interface files.

python scripts/interface_tables.py     # puts them between the page's marks
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "how-to" / "plan_service.md"
INTERFACES = ("PlanContext", "Robot", "Skill", "Place", "DoneStep", "Plan", "PlanStep")
BEGIN, END = "<!-- Written by: python scripts/interface_tables.py -->\n", "<!-- End of what is written by it -->\n"

_FIELD = re.compile(r"(?P<type>[\w/\[\]]+) +(?P<name>\w+)(?:=(?P<value>\d+))? +# (?P<comment>.*)")
_MORE = re.compile(r"# (?P<comment>.*)")


def table(text: str) -> str:
    """The fields and constants of a .msg file as a Markdown table, below its first comment."""
    title, *lines = text.splitlines()
    rows: list[list[str]] = []
    above: list[str] = []  # The comment's lines above a field: `ros2 interface show` puts nested fields below it.
    for line in lines:
        field, more = _FIELD.fullmatch(line), _MORE.fullmatch(line)
        if field:
            value = f" = {field['value']}" if field["value"] else ""
            rows.append([f"`{field['name']}`{value}", f"`{field['type']}`", " ".join([field["comment"], *above])])
            above = []
        elif more:
            above.append(more["comment"])
    cells = "\n".join("| " + " | ".join(row).replace("<", "&lt;") + " |" for row in rows)
    return f"{title.removeprefix('# ')}\n\n| field or constant | type | meaning |\n|---|---|---|\n{cells}\n"


def tables() -> str:
    """All of the page's tables."""
    return "\n".join(
        f"### {name}\n\n{table((ROOT / 'msg' / f'{name}.msg').read_text(encoding='utf-8'))}" for name in INTERFACES
    )


def main() -> None:
    """Write the tables into the page."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{tables()}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
