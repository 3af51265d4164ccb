"""The tests run against the installed package (install/ or pip), not against the source folder of that name beside them."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings
from installed import installation_fault

REPOSITORY = Path(__file__).resolve().parent.parent

sys.path[:] = [folder for folder in sys.path if Path(folder or ".").resolve() != REPOSITORY]
WITHOUT_ROS = find_spec("rclpy") is None
"""`make core`: pip has installed the package, and only the tests of the core can run."""

_package = find_spec("robobrain_ros")
if _package is None or _package.origin is None or not (WITHOUT_ROS or find_spec("robobrain_ros.msg")):
    pytest.exit("The built package is not in the path: run `make test`, or `. scripts/env.sh` after `make build`.", returncode=2)
if _fault := installation_fault(Path(_package.origin).parent, REPOSITORY / "robobrain_ros"):
    pytest.exit(_fault, returncode=2)

# No assertion on wall-clock performance: on a loaded machine any example may take long.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")

# Nothing leaves this machine, and another ROS system on it does not hear us.
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Each process of several is a ROS system of its own, and its engines' threads keep to one core.
    os.environ.pop("ROS_DOMAIN_ID", None)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # With one thread, vLLM's worker needs no process of its own to bind it, which would import vLLM once more: as on one GPU,
    # the worker is in the engine's process.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    # Read by each Python that is started from here, and not by pytest's own: ended nodes are garbage that has to go.
    _paths = [str(REPOSITORY / "test" / "child_start"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in _paths if path)
os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
# Engines side by side would else all be bound to the same core.
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


_LONGEST = ("engine_flagos", "ros_remote", "engine_embedded", "ros_demo_model", "tune_flagos", "engine_structured", "notebook")
"""Test files, the longest first."""


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Without ROS, leave out the tests that need it."""
    return True if WITHOUT_ROS and collection_path.suffix == ".py" and not collection_path.name.startswith("test_core_") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take minutes: of two processes, none is left alone with one of them at the end."""
    order = {f"test_{name}": number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A choice of files need not have tests of both runs of `make test`."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and "alone" in session.config.option.markexpr:
        session.exitstatus = pytest.ExitCode.OK


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder of the source code."""
    return REPOSITORY
