"""Write the versions of the packages in the current environment to requirements/constraints.txt.

Packages that are in the file but not in this environment keep their versions, because another Python or engine needs them.
"""

import re
from importlib.metadata import distributions
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parent.parent / "requirements" / "constraints.txt"
HEADER = """\
# The versions everything was tested with: left alone, pip takes the newest, and a new transformers or numpy breaks vLLM or the
# messages. Written by `make constraints` from a working environment. What belongs to a ROS installation is left out, since a
# sourced ROS brings its own; so are the engines and cv_bridge, which the files beside this one pin,
# and what torch or vLLM for the GPU pin themselves.
"""
LEFT_OUT = re.compile(
    r"(ros-.*|.*-msgs|.*-interfaces|rclpy|rcutils|rosidl-.*|rmw-.*|ament-.*|std-srvs|empy|catkin-pkg|lark-parser|notify2"
    r"|vllm.*|cv-bridge|flag-gems|sqlalchemy|robobrain-ros|nvidia-.*|cuda-.*|triton|apache-tvm-ffi)"
)


def main() -> None:
    """Merge the versions of the installed packages into the file."""
    pins = dict(line.split("==") for line in CONSTRAINTS.read_text().split() if "==" in line)
    for distribution in distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        if not LEFT_OUT.fullmatch(name):
            pins[name] = distribution.version.split("+")[0]  # Builds such as "+cpu" are not on every package index.
    CONSTRAINTS.write_text(HEADER + "".join(f"{name}=={pins[name]}\n" for name in sorted(pins)))


if __name__ == "__main__":
    main()
