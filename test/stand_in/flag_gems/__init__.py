"""A stand-in for FlagGems on the CPU, with the interface of flag-gems 5.0. Its operators really replace those of PyTorch.

The file in ``FLAG_GEMS_STAND_IN`` has a JSON object ``{operator: behaviour}``. "slow" waits. "wrong" returns wrong numbers.
"next" returns numbers that are larger by one. "next at 17" does this only in the 17th call. "raise" raises an exception.
"crash" ends the process. ``"native slow"`` makes PyTorch's own operator wait, so that the stand-in's is faster. With
``{"import": "raise"}``, the import fails, as FlagGems' import does without an accelerator. With ``{"enable": "raise"}``, no
operator can be registered.
"""

import json
import os
import time
import types
from collections import Counter
from pathlib import Path

import torch

from . import recording
from .recording import setup_flaggems_logging

__version__ = "5.0.2"
vendor_name = os.environ.get("GEMS_VENDOR", "arm")

WAIT = 0.02
PATIENT = os.environ.get("FLAG_GEMS_STAND_IN")
BEHAVIOUR = json.loads(Path(PATIENT).read_text()) if PATIENT else {}
if BEHAVIOUR.get("import") == "raise":
    raise RuntimeError("The Triton device is not found.")

_calls = Counter()


def _behave(name, result):
    """Perform the behaviour that is not computing."""
    behaviour = BEHAVIOUR.get(name, "")
    _calls[name] += 1
    if behaviour == "slow":
        time.sleep(20 * WAIT)  # This is much longer than the delays of a busy machine or a slow native operator.
    elif behaviour == "wrong":
        result = result * 1.5 + 0.5
    elif behaviour in ("next", f"next at {_calls[name]}"):
        result = result + 1
    elif behaviour == "raise":
        raise RuntimeError(f"Triton cannot compile {name}")
    elif behaviour == "crash":
        os.kill(os.getpid(), 11)
    return result


def silu(x):
    recording.note("GEMS SILU")
    return _behave("silu", x * torch.sigmoid(x))


def gelu(x, *, approximate="none"):
    recording.note("GEMS GELU")
    inner = 0.7978845608028654 * (x + 0.044715 * x**3) if approximate == "tanh" else None
    return _behave("gelu", 0.5 * x * (1 + (torch.erf(x / 2**0.5) if inner is None else torch.tanh(inner))))


def argmax(x, dim=None, keepdim=False):
    recording.note("GEMS ARGMAX")
    return _behave("argmax", torch.max(x, dim, keepdim)[1] if dim is not None else torch.max(x.reshape(-1), 0)[1])


def embedding(weight, indices, padding_idx=-1, scale_grad_by_freq=False, sparse=False):
    recording.note("GEMS EMBEDDING")
    rows = torch.index_select(weight, 0, indices.reshape(-1))
    return _behave("embedding", rows.reshape(*indices.shape, weight.shape[1]))


def exponential_(x, lambd=1.0, *, generator=None):
    recording.note("GEMS EXPONENTIAL_")
    return x.copy_(-torch.log1p(-torch.rand_like(x)) / lambd)


def cos(x):
    recording.note("GEMS COS")
    return _behave("cos", torch.sin(x + torch.pi / 2))


def pow_scalar(base, exponent):
    recording.note("GEMS POW_SCALAR")
    return _behave("pow_scalar", torch.exp(exponent * torch.log(torch.tensor(base, dtype=exponent.dtype))))


def gems_silu_and_mul(x, y):
    recording.note("GEMS CUSTOM SILU_AND_MUL FORWARD")
    return _behave("gems_silu_and_mul", x * torch.sigmoid(x) * y)


_FULL_CONFIG = (
    ("silu", silu),
    ("gelu", gelu),
    ("argmax", argmax),
    ("embedding", embedding),
    ("exponential_", exponential_),
    ("cos", cos, lambda: True),
    ("pow.Scalar", pow_scalar),
)
FULL_CONFIG_BY_FUNC = {}
for _row in _FULL_CONFIG:
    FULL_CONFIG_BY_FUNC.setdefault(_row[1].__name__, []).append(_row)


class Register:
    """Registers operators in a library. Its argument selects the names."""

    def __init__(self, config, user_include_ops=None, lib=None, full_config_by_func=None):
        self.lib = lib
        self.all_ops = []
        for name in user_include_ops or ():
            for row in (full_config_by_func or {}).get(name, ()):
                self.register_impl(row[0], row[1])

    def get_all_ops(self):
        return self.all_ops

    def register_impl(self, key, fn):
        self.all_ops.append(fn.__name__)
        # A slowed native operator is also a kernel in Python. PyTorch 2.11 replaces such a kernel only with this option.
        self.lib.impl(key, fn, "CPU", allow_override=True)


registrar = Register
runtime = types.SimpleNamespace(backend=types.SimpleNamespace(get_unused_ops=lambda vendor: ("cos",)))


aten_lib = torch.library.Library("aten", "IMPL")
current_work_registrar = None


def only_enable(lib=aten_lib, include=None, registrar=registrar, record=False, once=False, path=None):
    global current_work_registrar
    if BEHAVIOUR.get("enable") == "raise":
        raise RuntimeError("There is no such kernel here.")
    current_work_registrar = registrar(_FULL_CONFIG, user_include_ops=include, lib=lib, full_config_by_func=FULL_CONFIG_BY_FUNC)
    setup_flaggems_logging(path=path, record=record, once=once)


def enable(lib=aten_lib, unused=None, registrar=registrar, record=False, once=False, path=None):
    left_out = {*(unused or ()), *runtime.backend.get_unused_ops(vendor_name)}
    only_enable(lib, [name for name in FULL_CONFIG_BY_FUNC if name not in left_out], registrar, record, once, path)


def _wait_and(compute, *arguments, **options):
    time.sleep(WAIT)
    return compute(*arguments, **options)


def _slow_down_native(name, compute):
    """Make PyTorch's own operator wait in this process, as if it were not optimized for this accelerator."""
    if BEHAVIOUR.get(name) == "native slow":
        library = torch.library.Library("aten", "IMPL")
        library.impl(name, lambda *arguments, **options: _wait_and(compute, *arguments, **options), "CPU")
        return library
    return None


_native = [
    _slow_down_native("silu", lambda x: x * torch.sigmoid(x)),
    _slow_down_native("embedding", embedding),
    _slow_down_native("argmax", argmax),
]
