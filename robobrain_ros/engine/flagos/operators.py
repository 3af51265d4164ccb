"""Names of FlagGems' operators: which there are, without importing FlagGems, and which are left out unless they are asked for.

An operator is called by the ``__name__`` of its function, as FlagGems' own ``only_enable`` and ``enable`` do.
"""

import ast
import difflib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from robobrain_ros.errors import EngineConfigError

PACKAGE = "flag_gems"
FUSED = {"gems_rms_forward": "RMSNorm", "gems_silu_and_mul": "SiluAndMul"}
"""Functions of FlagGems that take the place of vLLM's own fused layers, and those layers' classes."""

LEFT_OUT = ("exponential_", "softmax", "index", "index_put_")
"""Left out unless named: the first two as FlagScale does for RoboBrain (its configuration of serving), the others as
vllm-plugin-FL does."""
LEFT_OUT_BY_VENDOR = {
    "nvidia": ("_index_put_impl_", "clamp", "clamp_", "copy_", "index_put", "mul", "nonzero", "pow_scalar", "to_copy"),
    "metax": ("masked_fill", "masked_fill_", "mm", "addmm", "nonzero"),
    "hygon": ("cat",),
}
"""Left out further, unless named, by FlagGems' names of the makers, as vllm-plugin-FL does; and ``mul``, whose kernel for Hopper
does not broadcast (flag-gems 5.0.2): of (n, 1) and (1, m) it makes (n, 1), which spoils RoboBrain's tables of positions."""

_TABLE = "_FULL_CONFIG"


def installed() -> bool:
    """Whether this Python has FlagGems; it is not imported."""
    return find_spec(PACKAGE) is not None


def known_operators() -> frozenset[str]:
    """All operators of the installed FlagGems, read from its source: importing it without an accelerator fails. Empty: the source
    says them in another way than FlagGems 5 does, or there is none."""
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
    """Names in the second places of a table's rows: (PyTorch's operator, function, condition)."""
    rows = table.elts if isinstance(table, ast.Tuple | ast.List) else []
    for row in rows:
        if isinstance(row, ast.Tuple) and len(row.elts) >= 2:
            function = row.elts[1]
            if isinstance(function, ast.Name | ast.Attribute):
                yield function.id if isinstance(function, ast.Name) else function.attr


def reject_unknown_operators(option: str, names: Iterable[str], known: frozenset[str]) -> None:
    """Check names of operators. If the operators of FlagGems are not known, every name passes.

    :raises EngineConfigError: FlagGems does not have an operator. The message has the nearest name.
    """
    for name in names:
        if not known or name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f". Did you mean {near[0]}?" if near else ". tune_flagos --list shows all."
        raise EngineConfigError(f"{option}: FlagGems has no operator {name!r}{hint}")
