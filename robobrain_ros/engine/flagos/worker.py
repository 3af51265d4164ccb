"""FlagGems in vLLM's worker processes. Importing this module imports FlagGems.

vLLM imports it in each worker through its own option ``worker_extension_cls``, before the worker is made and the model is loaded.
Nothing else may import it. Each operator has a `torch.library.Library` of its own, so that it can be taken back and put in again
while the engine runs, and FlagGems' own ``only_enable`` registers it there, through a registrar that is FlagGems' own but for the
watch on what is called. vLLM's fused layers are replaced as vLLM provides for, by ``CustomOp.register_oot``.
"""

import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from robobrain_ros.engine.embedded.worker import OwnerWatch
from robobrain_ros.engine.flagos import plugin
from robobrain_ros.engine.flagos.ledger import VARIABLE, Ledger
from robobrain_ros.engine.flagos.operators import FUSED, LEFT_OUT, LEFT_OUT_BY_VENDOR

_log = logging.getLogger(__name__)


class FlagGems:
    """The operators of FlagGems in this process.

    :param include: names to use; None: all but those that are left out.
    :param exclude: names not to use.
    :param folder: for the ledger.
    :param log_folder: for FlagGems' own log; empty: it writes none.
    :param deferred: use none of them before `begin`.
    :raises Exception: whatever importing FlagGems raises where it cannot work.
    """

    def __init__(
        self, include: Sequence[str] | None, exclude: Sequence[str], folder: str, log_folder: str, deferred: bool
    ) -> None:
        import torch
        import vllm._custom_ops  # noqa: F401  # The other way round, both define the same operators, and the process aborts.

        import flag_gems  # isort: skip

        self._gems: Any = flag_gems
        self._library: Callable[[], Any] = lambda: torch.library.Library("aten", "IMPL")
        self._libraries: dict[str, Any] = {}
        self._fused: set[str] = set()
        table = list(flag_gems.FULL_CONFIG_BY_FUNC)
        fused = [name for name in FUSED if hasattr(flag_gems, name)]
        self.ledger = Ledger(Path(folder), [*table, *fused])
        self._registrar = _watching(flag_gems.registrar, self.ledger)
        self.ledger.write(
            vendor=flag_gems.vendor_name, version=getattr(flag_gems, "__version__", ""), fused=self._replace_layers(fused)
        )
        left_out = self._left_out()
        wanted = include if include is not None else [name for name in self.ledger.entry.names if name not in left_out]
        self._wanted = [name for name in wanted if name not in exclude]
        self.use(() if deferred else self._wanted)
        if log_folder:
            log = str(Path(log_folder) / f"flag_gems-{os.getpid()}.log")
            self._gems.setup_flaggems_logging(path=log, record=True, once=True)
            self.ledger.write(log=log)

    def begin(self) -> None:
        """Use what was asked for."""
        self.use(self._wanted)

    def use(self, names: Sequence[str]) -> None:
        """Use these operators, and no others, from now on. Unknown names are ignored."""
        wanted = set(names) & set(self.ledger.entry.names)
        for name in set(self._libraries) - wanted:
            self._libraries.pop(name)._destroy()
        for name in sorted(wanted - set(self._libraries) - set(FUSED)):
            self._libraries[name] = library = self._library()
            self._gems.only_enable(lib=library, include=[name], registrar=self._registrar)
        self._fused = wanted & set(FUSED)
        self.ledger.write(registered=tuple(sorted(wanted)))

    def _left_out(self) -> set[str]:
        """What is not used unless it is named: ours, and what FlagGems itself leaves out on this maker's chips."""
        vendor = self._gems.vendor_name
        names = {*LEFT_OUT, *LEFT_OUT_BY_VENDOR.get(vendor, ())}
        if vendor != "nvidia":  # As FlagGems' own registrar does.
            names.update(self._gems.runtime.backend.get_unused_ops(vendor))
        return names

    def _replace_layers(self, functions: Sequence[str]) -> dict[str, str]:
        """Let FlagGems compute vLLM's fused layers, as long as the function is in use; says of each layer who computes it."""
        computed_by = {
            "RotaryEmbedding": "vLLM: RoboBrain uses MRotaryEmbedding, which FlagGems does not implement",
            **dict.fromkeys(FUSED.values(), "vLLM: this version of FlagGems does not implement the layer"),
        }
        for name in functions:
            layer = FUSED[name]
            try:
                computed_by[layer] = self._replace_layer(name)
            except (ImportError, AttributeError) as error:
                computed_by[layer] = f"vLLM: this version of it cannot replace the layer ({error})"
        return computed_by

    def _replace_layer(self, name: str) -> str:
        from vllm.model_executor.custom_op import op_registry_oot
        from vllm.model_executor.layers.activation import SiluAndMul
        from vllm.model_executor.layers.layernorm import RMSNorm

        base: Any = {"RMSNorm": RMSNorm, "SiluAndMul": SiluAndMul}[FUSED[name]]
        if base.__name__ in op_registry_oot:
            return f"{op_registry_oot[base.__name__].__module__}, which has replaced vLLM's"
        run = self.ledger.watched(name, getattr(self._gems, name))
        compute = _COMPUTE[FUSED[name]]
        used = self._fused_in_use

        class Replaced(base):  # type: ignore[misc]
            """vLLM's layer, computed by FlagGems while its function is in use. ``forward_native`` stays: compilers need it."""

            def forward_cuda(self, *arguments: Any, **options: Any) -> Any:
                """On CUDA, and what vLLM treats as such."""
                return compute(self, run if used(name) else None, super().forward_cuda, *arguments, **options)

            def forward_oot(self, *arguments: Any, **options: Any) -> Any:
                """On a platform that is not vLLM's own."""
                return compute(self, run if used(name) else None, super().forward_oot, *arguments, **options)

            def forward_cpu(self, *arguments: Any, **options: Any) -> Any:
                """On the CPU."""
                return compute(self, run if used(name) else None, super().forward_cpu, *arguments, **options)

        base.register_oot(Replaced)
        return f"FlagGems while {name} is in use"

    def _fused_in_use(self, name: str) -> bool:
        return name in self._fused


def _rms_norm(layer: Any, run: Any, native: Any, x: Any, residual: Any = None) -> Any:
    """FlagGems' has a weight for each channel, and a mean over all of them."""
    plain = getattr(layer, "variance_size_override", None) is None and getattr(layer, "has_weight", True)
    if run is None or not plain:
        return native(x, residual)
    return run(x, residual, layer.weight.data, layer.variance_epsilon)


def _silu_and_mul(_layer: Any, run: Any, native: Any, x: Any) -> Any:
    half = x.shape[-1] // 2
    return native(x) if run is None else run(x[..., :half], x[..., half:])


_COMPUTE: dict[str, Callable[..., Any]] = {"RMSNorm": _rms_norm, "SiluAndMul": _silu_and_mul}


def _watching(registrar: Any, ledger: Ledger) -> Any:
    """FlagGems' registrar, with a watch on each function that it registers."""

    class Watching(registrar):  # type: ignore[misc]
        """Registers functions that record their calls in the ledger."""

        def register_impl(self, key: str, function: Callable[..., Any]) -> None:
            """See FlagGems' `Register`."""
            super().register_impl(key, ledger.watched(function.__name__, function))

    return Watching


_gems: FlagGems | None = None


class FlagosExtension(OwnerWatch):
    """Extension of vLLM's worker class; its methods are called by ``collective_rpc``."""

    def flagos_begin(self) -> None:
        """Use, from now on, the operators that were asked for; none, where they cannot be registered."""
        if _gems is None:
            return
        try:
            _gems.begin()
        except Exception as error:
            _gems.use(())
            _give_up(error, _gems.ledger)

    def flagos_use(self, names: list[str]) -> list[str]:
        """Use these operators from now on, and count calls anew; gives those that are used."""
        if _gems is None:
            return []
        _gems.use(names)
        _gems.ledger.forget_calls()
        return list(_gems.ledger.entry.registered)

    def flagos_registered(self) -> list[str]:
        """Return the operators that vllm-plugin-FL has registered in this process."""
        return plugin.registered()


def _enter(settings: str) -> None:
    """Bring FlagGems in. Where it cannot be, the engine goes on without it, and its owner reads why."""
    global _gems
    wanted = json.loads(settings)
    try:
        _gems = FlagGems(**wanted)
    except Exception as error:
        _give_up(error, Ledger(Path(wanted["folder"]), ()))


def _give_up(error: Exception, ledger: Ledger) -> None:
    _log.warning("FlagGems cannot be used: %s", error)
    ledger.write(error=f"{type(error).__name__}: {error}")


if VARIABLE in os.environ:
    _enter(os.environ[VARIABLE])
