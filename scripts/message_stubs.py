"""Write stubs/ from msg/, srv/ and action/: the types of the package's messages, services and actions for mypy and editors.

Also write robobrain_ros/bags/definitions.txt from msg/.

    . scripts/env.sh && python scripts/message_stubs.py

The build generates the classes without types. A test checks that the stubs are up to date.
"""

from collections.abc import Iterable
from pathlib import Path

from rosidl_adapter.parser import (
    Field,
    MessageSpecification,
    Type,
    parse_action_file,
    parse_message_file,
    parse_service_file,
)

from robobrain_ros.bags.messages import DEFINITIONS as INSTALLED
from robobrain_ros.bags.messages import SEPARATOR

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "robobrain_ros"
STUBS = ROOT / "stubs" / PACKAGE
DEFINITIONS = ROOT / PACKAGE / "bags" / INSTALLED.name
KINDS = ("msg", "srv", "action")

_HEADING = '"""Written by scripts/message_stubs.py: do not edit."""\n'
_PYTHON_TYPES = {"bool": "bool", "string": "str", "wstring": "str", "float32": "float", "float64": "float", "byte": "bytes"}
"""Python types of the primitive types that are not integers. ``char`` is an integer in Python."""


def python_type(type_: Type) -> str:
    """Return the Python type of a field. An array of numbers is a Sequence: `array.array`, a numpy array, or a list."""
    primitive = type_.is_primitive_type()
    single = _PYTHON_TYPES.get(type_.type, "int") if primitive else str(type_.type)
    if not type_.is_array:
        return single
    return f"Sequence[{single}]" if primitive and single != "str" else f"list[{single}]"


def message_class(name: str, message: MessageSpecification) -> list[str]:
    """Return the lines of a class for a message, or for one part of a service or an action."""
    fields: list[Field] = message.fields
    constants = [f"    {constant.name}: ClassVar[{python_type(Type(constant.type))}]" for constant in message.constants]
    attributes = [f"    {field.name}: {python_type(field.type)}" for field in fields]
    arguments = [f"        {field.name}: {python_type(field.type)} = ...," for field in fields]
    constructor = ["    def __init__(", "        self,", "        *,", *arguments, "    ) -> None: ..."]
    names = ["    @classmethod", "    def get_fields_and_field_types(cls) -> dict[str, str]: ..."]
    return [f"class {name}:", *constants, *attributes, *(constructor if fields else []), *names]


def outer_class(name: str, parts: dict[str, MessageSpecification]) -> list[str]:
    """Return the lines of a class for a service or an action. It contains the classes of the parts."""
    lines = [line for part, message in parts.items() for line in ["", *message_class(part, message)]]
    return [f"class {name}:", *(f"    {line}" if line else "" for line in lines[1:])]


def parsed(path: Path) -> dict[str, MessageSpecification]:
    """Return the parts of an interface file by name. The name of a message's only part is empty."""
    if path.suffix == ".msg":
        return {"": parse_message_file(PACKAGE, path)}
    if path.suffix == ".srv":
        service = parse_service_file(PACKAGE, path)
        return {"Request": service.request, "Response": service.response}
    action = parse_action_file(PACKAGE, path)
    return {"Goal": action.goal, "Result": action.result, "Feedback": action.feedback}


def imports(kind: str, messages: Iterable[MessageSpecification]) -> str:
    """Return the import lines of a stub: from the standard library, from other packages, and from this package."""
    messages = list(messages)
    types = [field.type for message in messages for field in message.fields]
    typing = []
    if any(python_type(type_).startswith("Sequence") for type_ in types):
        typing.append("from collections.abc import Sequence\n")
    if any(message.constants for message in messages):
        typing.append("from typing import ClassVar\n")
    names: dict[str, set[str]] = {}
    for type_ in types:
        if not type_.is_primitive_type():
            names.setdefault(type_.pkg_name, set()).add(type_.type)
    own = names.pop(PACKAGE, set())
    others = [_import(package, found) for package, found in sorted(names.items())]
    groups = ["".join(typing), "".join(others), _import(PACKAGE, own) if own and kind != "msg" else ""]
    return "\n".join(group for group in groups if group)


def _import(package: str, names: set[str]) -> str:
    """Return an import with one name per line. The formatter does not change this form."""
    return f"from {package}.msg import (\n" + "".join(f"    {name},\n" for name in sorted(names)) + ")\n"


def stub(kind: str) -> str:
    """Return the text of the stub of ``msg``, ``srv`` or ``action``."""
    interfaces = {path.stem: parsed(path) for path in sorted((ROOT / kind).glob(f"*.{kind}"))}
    classes = [
        message_class(name, parts[""]) if kind == "msg" else outer_class(name, parts) for name, parts in interfaces.items()
    ]
    heading = imports(kind, (part for parts in interfaces.values() for part in parts.values()))
    return "\n".join([_HEADING, heading, *("\n".join(lines) + "\n" for lines in classes)])


def definitions() -> str:
    """Return all message definitions in one text, for the bag program."""
    paths = sorted((ROOT / "msg").glob("*.msg"))
    sections = (f"MSG: {PACKAGE}/msg/{path.stem}\n{path.read_text(encoding='utf-8')}" for path in paths)
    return "".join(SEPARATOR + section for section in sections)


def main() -> None:
    """Write all stubs, and the definitions for bags."""
    for kind in KINDS:
        path = STUBS / kind / "__init__.pyi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(stub(kind), encoding="utf-8")
    DEFINITIONS.write_text(definitions(), encoding="utf-8")


if __name__ == "__main__":
    main()
