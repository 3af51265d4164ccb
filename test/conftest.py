"""Run the tests against the installed package (install/ or pip), not against the source folder with the same name."""

import atexit
import gc
import os
import sys
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings
from installed import installation_fault

REPOSITORY = Path(__file__).resolve().parent.parent

sys.path[:] = [folder for folder in sys.path if Path(folder or ".").resolve() != REPOSITORY]
WITHOUT_ROS = find_spec("rclpy") is None
"""Whether ROS is missing, as in `make core`, which installs the package with pip. Then only tests of the core can run."""

_package = find_spec("robobrain_ros")
if _package is None or _package.origin is None or not (WITHOUT_ROS or find_spec("robobrain_ros.msg")):
    pytest.exit("The built package is not in the path: run `make test`, or `. scripts/env.sh` after `make build`.", returncode=2)
if _fault := installation_fault(Path(_package.origin).parent, REPOSITORY / "robobrain_ros"):
    pytest.exit(_fault, returncode=2)


def _domain() -> int:
    """Return a ROS domain for this test process: an odd number. A test that needs another domain takes the next number."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    number = os.getpid() if worker is None else os.getppid() + int(worker.removeprefix("gw"))
    return 1 + 2 * (number % 50)


# Examples have no time limit, because any example can take long on a loaded machine.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")

# No test sends data to other machines, and other ROS systems on this machine do not receive the tests' messages.
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Each test process is a separate ROS system, and the threads of its engines use one core.
    os.environ.pop("ROS_DOMAIN_ID", None)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Each Python that a test starts reads this variable. pytest itself does not, because it must collect ended nodes as garbage.
    _paths = [str(REPOSITORY / "test" / "child_start"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in _paths if path)
os.environ.setdefault("ROS_DOMAIN_ID", str(_domain()))
# Otherwise, engines that run at the same time would all be bound to the same core.
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


_LONGEST = (
    *("ros_demo_model", "ros_end_to_end", "ask", "engine_embedded", "ros_remote", "engine_flagos", "engine_flagos_plugin"),
    *("engine_stall", "examples", "documented_commands", "ros_bursts", "core_parsing_properties", "engine_structured"),
    *("engine_leftovers", "engine_flagos_vllm", "engine_server", "demo_camera", "engine_video", "engine_image_bytes", "notebook"),
    *("ros_faults", "engine_space", "engine_remote_bounds", "ros_cameras", "training_progress"),
)
"""The test files that take longest, in descending order."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Replace lone surrogates in captured output. pytest-xdist cannot send them, and would end the whole run."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "replace").decode()) for name, text in report.sections]
    return report


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore tests that need ROS if ROS is missing. With ``-m MARK`` or ``-m "MARK and ..."``, ignore files without that mark."""
    if collection_path.suffix != ".py":
        return None
    mark = config.option.markexpr.split(" ")[0]  # The import of all files takes half a minute.
    without_mark = mark in ("alone", "thorough") and f"mark.{mark}" not in collection_path.read_text()
    return True if without_mark or (WITHOUT_ROS and not collection_path.name.startswith("test_core_")) else None


def pytest_collection() -> None:
    """Do not collect garbage while tests are collected: there is almost none."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Collect garbage again, except the objects of the tests and of the imported modules."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # Otherwise, Triton reports leaked objects when the process ends.
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files that take minutes first. Otherwise, one of two processes would run such a file alone at the end."""
    order = {f"test_{name}": number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Accept a selection of files that has no tests for one of the two runs of `make test`."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and "alone" in session.config.option.markexpr:
        session.exitstatus = pytest.ExitCode.OK


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the folder of the source code."""
    return REPOSITORY
