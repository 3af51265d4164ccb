"""Write the versions of the packages in the current environment to requirements/constraints.txt.

Packages that are in the file but not in this environment keep their versions, because another Python or engine needs them. Lines
with an environment marker stay as they are: edit them by hand.
"""

import re
from importlib.metadata import distributions
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parent.parent / "requirements" / "constraints.txt"
HEADER = """\
# The tested versions of all packages. `make constraints` writes this file from a working environment. Without it, pip selects the
# newest versions, and a newer transformers or numpy can break vLLM or the ROS messages. The file omits packages of ROS, because a
# sourced ROS has its own; vLLM, FlagGems and cv_bridge, because other files in this folder pin them; and packages that torch or
# vLLM for the GPU pin themselves.
"""
LEFT_OUT = re.compile(
    r"(ros-.*|.*-msgs|.*-interfaces|rclpy|rcutils|rosidl-.*|rmw-.*|ament-.*|std-srvs|empy|catkin-pkg|lark-parser|notify2"
    r"|vllm.*|cv-bridge|flag-gems|sqlalchemy|robobrain-ros|nvidia-.*|cuda-.*|triton|apache-tvm-ffi)"
)


def main() -> None:
    """Merge the versions of the installed packages into the file."""
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if "==" in line]
    marked = [line for line in lines if ";" in line]
    by_hand = {line.split("==")[0] for line in marked}
    pins = dict(line.split("==") for line in lines if line not in marked)
    for distribution in distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        if name not in by_hand and not LEFT_OUT.fullmatch(name):
            pins[name] = distribution.version.split("+")[0]  # Builds such as "+cpu" are not on every package index.
    written = sorted([*marked, *(f"{name}=={version}" for name, version in pins.items())], key=lambda line: line.split("==")[0])
    CONSTRAINTS.write_text(HEADER + "".join(f"{line}\n" for line in written))


if __name__ == "__main__":
    main()
