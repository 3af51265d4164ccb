"""The program ``robobrain``: the node. It loads the tabletop demo model if the parameter ``engine.model`` is empty."""

from robobrain_ros import demo
from robobrain_ros.ros import main as node_process


def main(args: list[str] | None = None) -> None:
    """Run the node until SIGINT, SIGTERM or SIGHUP."""
    node_process.main(args, default_model=demo.DEMO_MODEL)


if __name__ == "__main__":
    main()
