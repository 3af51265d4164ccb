"""Names of FlagGems' operators, read without importing FlagGems, and the operators that are excluded by default.

The name of an operator is the ``__name__`` of its function, as in FlagGems' own ``only_enable`` and ``enable``.
"""

import ast
import difflib
import math
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from robobrain_ros.errors import EngineConfigError

PACKAGE = "flag_gems"
FUSED = {"gems_rms_forward": "RMSNorm", "gems_silu_and_mul": "SiluAndMul"}
"""Functions of FlagGems that replace fused layers of vLLM, and the classes of these layers."""

EXCLUDED_BY_DEFAULT = ("exponential_", "softmax", "index", "index_put_")
"""Operators that are excluded by default. FlagScale's serving configuration for RoboBrain excludes the first two,
vllm-plugin-FL the others."""
EXCLUDED_BY_VENDOR = {
    "nvidia": ("_index_put_impl_", "clamp", "clamp_", "copy_", "index_put", "mul", "nonzero", "pow_scalar", "to_copy"),
    "metax": ("masked_fill", "masked_fill_", "mm", "addmm", "nonzero"),
    "hygon": ("cat",),
}
"""Further operators that are excluded by default, by FlagGems' name of the chip's vendor. vllm-plugin-FL excludes them, except
``mul``: its kernel for Hopper does not broadcast (flag-gems 5.0.2). The product of (n, 1) and (1, m) has the shape (n, 1), so
RoboBrain's rotary positions are wrong."""
CORRECT_SINCE = {"mul": (5, 3)}
"""First version of FlagGems for which an operator of `EXCLUDED_BY_VENDOR` is not excluded. ``mul`` was tested on an H200."""

_TABLE = "_FULL_CONFIG"


def excluded_by_default(vendor: str, version: str) -> set[str]:
    """Return the operators that are excluded by default, except FlagGems' own exclusions.

    :param vendor: FlagGems' name of the chip's vendor.
    :param version: version of FlagGems. If it is unknown, operators are excluded as in old versions.
    """
    found = re.match(r"v?(\d+)\.(\d+)", version)
    numbers = (int(found[1]), int(found[2])) if found else (0, 0)
    of_vendor = {name for name in EXCLUDED_BY_VENDOR.get(vendor, ()) if numbers < CORRECT_SINCE.get(name, (math.inf,))}
    return of_vendor | set(EXCLUDED_BY_DEFAULT)


def installed() -> bool:
    """Return whether FlagGems is installed in this Python. It is not imported."""
    return find_spec(PACKAGE) is not None


def known_operators() -> frozenset[str]:
    """Return all operators of the installed FlagGems, or no operators if they are unknown.

    They are read from the source of FlagGems, because importing it fails without an accelerator. They are unknown if FlagGems is
    not installed, or if its source has another form than that of FlagGems 5.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return frozenset()
    try:
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return frozenset()
    names = {name for node in tree.body if isinstance(node, ast.Assign) and _assigns(node) for name in _functions(node.value)}
    return frozenset(names | set(FUSED)) if names else frozenset()


def _assigns(node: ast.Assign) -> bool:
    return any(isinstance(target, ast.Name) and target.id == _TABLE for target in node.targets)


def _functions(table: ast.expr) -> Iterable[str]:
    """Return the functions' names from FlagGems' table, whose rows are (PyTorch's operator, function, condition)."""
    rows = table.elts if isinstance(table, ast.Tuple | ast.List) else []
    for row in rows:
        if isinstance(row, ast.Tuple) and len(row.elts) >= 2:
            function = row.elts[1]
            if isinstance(function, ast.Name | ast.Attribute):
                yield function.id if isinstance(function, ast.Name) else function.attr


def reject_unknown_operators(option: str, names: Iterable[str], known: frozenset[str]) -> None:
    """Check names of operators. If ``known`` is empty, every name passes.

    :raises EngineConfigError: FlagGems does not have an operator. The message has the nearest name.
    """
    for name in names:
        if not known or name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f". Did you mean {near[0]}?" if near else ". tune_flagos --list shows all."
        raise EngineConfigError(f"{option}: FlagGems has no operator {name!r}{hint}")
