"""Start a camera in the tabletop world, and the node robobrain with the tabletop demo model and standing queries.

ros2 launch robobrain_ros demo.launch.py rviz:=true
ros2 topic echo /robobrain/plan
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import Action, LaunchContext, LaunchDescription

SHARE = Path(get_package_share_directory("robobrain_ros"))

ARGUMENTS = (
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the nodes and their topics."),
    DeclareLaunchArgument(
        "seed",
        default_value="12",
        description="Seed of the scene. The standing queries of the default params_file ask about scene 12.",
    ),
    DeclareLaunchArgument("moving", default_value="true", choices=["true", "false"], description="Whether the objects move."),
    DeclareLaunchArgument("rate", default_value="10.0", description="Images per second."),
    DeclareLaunchArgument(
        "model", default_value="", description="Model: a preset, a folder or a name on the hub. Empty: the tabletop demo model."
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=str(SHARE / "config" / "demo.yaml"),
        description="Parameter file of the node robobrain. The default file sets the standing queries of the demo.",
    ),
    DeclareLaunchArgument(
        "transport_profile",
        default_value="large",
        description="Fast DDS profile of both nodes: large (shared memory with room for whole images; 128 MB of /dev/shm for "
        "each process) or a file. Empty: as in the environment.",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="",
        choices=["", "true", "false"],
        description="Use simulated time from /clock in both nodes. Empty: as in params_file for the node, false for the camera.",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="Log level of both nodes.",
    ),
    DeclareLaunchArgument(
        "fixed_frame", default_value="", description="Fixed frame of RViz, such as table. Empty: the camera's frame."
    ),
    DeclareLaunchArgument("rviz", default_value="false", choices=["true", "false"], description="Also start RViz."),
    DeclareLaunchArgument(
        "live",
        default_value="false",
        choices=["true", "false"],
        description="Also start the live view, a page in the browser. Its address is in the log.",
    ),
    DeclareLaunchArgument("live_port", default_value="8090", description="TCP port of the live view; 0: any free port."),
)


PASSED_ON = (
    *("namespace", "model", "params_file", "transport_profile", "use_sim_time", "log_level"),
    *("rviz", "fixed_frame", "live", "live_port"),
)
"""Arguments of robobrain.launch.py."""


def make_nodes(context: LaunchContext) -> list[Action]:
    """Return both nodes. In this function, a wrong argument ends the launch before a node has started."""
    value = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    parameters: dict[str, object] = {
        "seed": int(value["seed"]),
        "moving": value["moving"] == "true",
        "rate": float(value["rate"]),
    }
    if value["use_sim_time"]:
        parameters["use_sim_time"] = value["use_sim_time"] == "true"
    robobrain = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "robobrain.launch.py")),
        launch_arguments={name: value[name] for name in PASSED_ON}.items(),
    )
    logger = ".".join([*value["namespace"].strip("/").split("/"), "demo_camera"]).lstrip(".")
    camera = Node(
        package="robobrain_ros",
        executable="demo_camera",
        name="demo_camera",
        namespace=value["namespace"],
        output="screen",
        parameters=[parameters],
        arguments=["--ros-args", "--log-level", f"{logger}:={value['log_level']}"],
    )
    # The order matters. If RViz is not installed, the launch ends at the first action, and no camera is left running. The first
    # action also sets the transport profile for the camera.
    return [robobrain, camera]


def generate_launch_description() -> LaunchDescription:
    """Return the launch description."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=make_nodes)])
