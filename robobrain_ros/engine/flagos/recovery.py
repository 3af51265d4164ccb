"""Decide which operators of FlagOS later engines use after a failure: all but one, all without CUDA graphs, or none."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from robobrain_ros.engine.flagos.choice import Choice, Operators
from robobrain_ros.engine.flagos.ledger import Failure

_MOST_FAILURES = 2
"""Number of operators that may fail. After one more failure, engines do not use FlagGems."""

_failures: dict[str, list[Failure]] = {}
"""The failures in this process, by model."""

_log = logging.getLogger(__name__)


def remember(model: str, failure: Failure) -> None:
    """Record a failure, so that later engines of this process do not use the operator that failed.

    :param model: as in `EngineOptions`.
    """
    _log.warning("FlagOS: %s failed (%s). The engine restarts.", failure.operator or "the engine", failure.how)
    _failures.setdefault(model, []).append(failure)


def without_failures(choice: Choice, model: str, *, eagerly: bool) -> Choice:
    """Return the choice without the operators that have failed.

    :param eagerly: whether to use FlagGems without CUDA graphs if it fails with them. Without CUDA graphs, it is much slower.
    """
    return _without(choice, _failures.get(model, []), eagerly=eagerly)


def _without(choice: Choice, failures: list[Failure], *, eagerly: bool) -> Choice:
    unnamed = next((failure for failure in failures if not failure.operator), None)
    if eagerly and choice.graphs and unnamed is not None:
        # The operators in captured CUDA graphs cannot be exchanged, so bisection is impossible.
        left = [failure for failure in failures if failure is not unnamed]
        warning = (
            f"FlagGems failed with CUDA graphs ({unnamed.how}). Its operators now run without CUDA graphs, which is slower. "
            "Exclude operators with flagos.exclude, or run tune_flagos."
        )
        choice = _without(replace(choice, graphs=False), left, eagerly=False)
        return replace(choice, warning=choice.warning or warning)
    if not failures:
        return choice
    last = failures[-1]
    names = [failure.operator for failure in failures]
    if not choice.uses_flaggems and "" not in names:
        return choice  # Only operators of FlagGems failed: matrix products by shape stay in use.
    if "" in names or len(names) > _MOST_FAILURES:
        warning = (
            f"FlagOS is disabled, because {last.operator or 'the engine'} failed with it ({last.how}). Exclude operators with "
            "flagos.exclude, run tune_flagos, or set flagos.mode to off."
        )
        return Choice(Operators.NATIVE, "Native operators, after failures with FlagOS.", warning=warning)
    warning = (
        f"FlagGems' operator {last.operator} failed ({last.how}). PyTorch's own operator replaces {', '.join(names)}. Add it to "
        "flagos.exclude, or run tune_flagos."
    )
    include = None if choice.include is None else tuple(name for name in choice.include if name not in names)
    none_left = choice.operators is Operators.OURS and include == ()
    operators = Operators.NATIVE if none_left else choice.operators
    return replace(choice, operators=operators, include=include, exclude=(*choice.exclude, *names), warning=warning)


async def find_culprit(names: Sequence[str], fails_with: Callable[[Sequence[str]], Awaitable[bool]]) -> str:
    """Find by bisection the operator with which the engine fails.

    :returns: empty if the engine fails without any operator, or with no single one.
    """
    if await fails_with(()):
        return ""
    suspects = list(names)
    while len(suspects) > 1:
        middle = len(suspects) // 2
        halves = suspects[:middle], suspects[middle:]
        failing = [half for half in halves if await fails_with(half)]
        if not failing:
            return ""
        suspects = failing[0]
    return suspects[0] if suspects and await fails_with(suspects) else ""
