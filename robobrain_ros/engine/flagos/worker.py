"""FlagGems in vLLM's worker processes. Importing this module imports FlagGems.

vLLM imports it in each worker through its option ``worker_extension_cls``, before it creates the worker and loads the model.
Nothing else may import it. Each operator has its own `torch.library.Library`, so that it can be unregistered and registered
again while the engine runs. FlagGems' own ``only_enable`` registers the operator, through a subclass of FlagGems' registrar
that records the calls. ``CustomOp.register_oot`` of vLLM replaces fused layers.
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
from robobrain_ros.engine.flagos.operators import FUSED, excluded_by_default

_log = logging.getLogger(__name__)


class FlagGems:
    """The operators of FlagGems in this process.

    :param include: names of the operators to use. None means all except those that are excluded by default.
    :param exclude: names of operators that are not used.
    :param folder: folder of the ledger.
    :param log_folder: folder of FlagGems' own log, or empty for no log.
    :param deferred: register no operator before `begin` is called.
    :raises Exception: any exception of FlagGems' import.
    """

    def __init__(
        self, include: Sequence[str] | None, exclude: Sequence[str], folder: str, log_folder: str, deferred: bool
    ) -> None:
        import torch
        import vllm._custom_ops  # noqa: F401  # Before FlagGems: otherwise both define the same operators, and the process aborts.

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
        excluded = self._excluded_by_default()
        wanted = include if include is not None else [name for name in self.ledger.entry.names if name not in excluded]
        self._wanted = [name for name in wanted if name not in exclude]
        self.use(() if deferred else self._wanted)
        if log_folder:
            log = str(Path(log_folder) / f"flag_gems-{os.getpid()}.log")
            self._gems.setup_flaggems_logging(path=log, record=True, once=True)
            self.ledger.write(log=log)

    def begin(self) -> None:
        """Register the operators of the settings."""
        self.use(self._wanted)

    def use(self, names: Sequence[str]) -> None:
        """Register exactly these operators. Unknown names are ignored."""
        wanted = set(names) & set(self.ledger.entry.names)
        for name in set(self._libraries) - wanted:
            self._libraries.pop(name)._destroy()
        for name in sorted(wanted - set(self._libraries) - set(FUSED)):
            self._libraries[name] = library = self._library()
            self._gems.only_enable(lib=library, include=[name], registrar=self._registrar)
        self._fused = wanted & set(FUSED)
        self.ledger.write(registered=tuple(sorted(wanted)))

    def _excluded_by_default(self) -> set[str]:
        """Return the operators that are excluded by default: this package's exclusions, and FlagGems' own for this vendor."""
        vendor = self._gems.vendor_name
        names = excluded_by_default(vendor, str(getattr(self._gems, "__version__", "")))
        if vendor != "nvidia":  # As FlagGems' own registrar does.
            names.update(self._gems.runtime.backend.get_unused_ops(vendor))
        return names

    def _replace_layers(self, functions: Sequence[str]) -> dict[str, str]:
        """Replace vLLM's fused layers by functions of FlagGems, which compute while they are in use.

        :returns: for each layer, a text that states whether FlagGems or vLLM computes it.
        """
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
            """vLLM's layer, computed by FlagGems while its function is in use.

            ``forward_native`` is unchanged, because torch.compile needs it.
            """

            def forward_cuda(self, *arguments: Any, **options: Any) -> Any:
                """Compute the layer on CUDA, and on platforms that vLLM treats as CUDA."""
                return compute(self, run if used(name) else None, super().forward_cuda, *arguments, **options)

            def forward_oot(self, *arguments: Any, **options: Any) -> Any:
                """Compute the layer on a platform that is not part of vLLM."""
                return compute(self, run if used(name) else None, super().forward_oot, *arguments, **options)

            def forward_cpu(self, *arguments: Any, **options: Any) -> Any:
                """Compute the layer on the CPU."""
                return compute(self, run if used(name) else None, super().forward_cpu, *arguments, **options)

        base.register_oot(Replaced)
        return f"FlagGems while {name} is in use"

    def _fused_in_use(self, name: str) -> bool:
        return name in self._fused


def _rms_norm(layer: Any, run: Any, native: Any, x: Any, residual: Any = None) -> Any:
    """Compute RMSNorm. FlagGems' function needs a weight for each channel, and takes the mean over all channels."""
    plain = getattr(layer, "variance_size_override", None) is None and getattr(layer, "has_weight", True)
    if run is None or not plain:
        return native(x, residual)
    return run(x, residual, layer.weight.data, layer.variance_epsilon)


def _silu_and_mul(_layer: Any, run: Any, native: Any, x: Any) -> Any:
    half = x.shape[-1] // 2
    return native(x) if run is None else run(x[..., :half], x[..., half:])


_COMPUTE: dict[str, Callable[..., Any]] = {"RMSNorm": _rms_norm, "SiluAndMul": _silu_and_mul}


def _watching(registrar: Any, ledger: Ledger) -> Any:
    """Return a subclass of FlagGems' registrar that records the calls of each function."""

    class Watching(registrar):  # type: ignore[misc]
        """Registers functions that record their calls in the ledger."""

        def register_impl(self, key: str, function: Callable[..., Any]) -> None:
            """See FlagGems' `Register`."""
            super().register_impl(key, ledger.watched(function.__name__, function))

    return Watching


_gems: FlagGems | None = None


class FlagosExtension(OwnerWatch):
    """Extension of vLLM's worker class. ``collective_rpc`` calls its methods."""

    def flagos_begin(self) -> None:
        """Register the operators of the settings. If one cannot be registered, register none."""
        if _gems is None:
            return
        try:
            _gems.begin()
        except Exception as error:
            _gems.use(())
            _give_up(error, _gems.ledger)

    def flagos_use(self, names: list[str]) -> list[str]:
        """Register exactly these operators, mark all as not called, and return the registered ones."""
        if _gems is None:
            return []
        _gems.use(names)
        _gems.ledger.forget_calls()
        return list(_gems.ledger.entry.registered)

    def flagos_registered(self) -> list[str]:
        """Return the operators that vllm-plugin-FL has registered in this process."""
        return plugin.registered()


def _import_flaggems(settings: str) -> None:
    """Import FlagGems. If this fails, the engine continues without it, and the ledger contains the reason."""
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
    _import_flaggems(os.environ[VARIABLE])
