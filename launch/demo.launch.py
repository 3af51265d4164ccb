"""Starts a camera on the tabletop world and the node robobrain with the tabletop demo model, which asks all the time.

ros2 launch robobrain_ros demo.launch.py rviz:=true
ros2 topic echo /robobrain/plan
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

SHARE = Path(get_package_share_directory("robobrain_ros"))

ARGUMENTS = (
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the nodes and their topics."),
    DeclareLaunchArgument("seed", default_value="12", description="Seed of the scene; the questions are about scene 12."),
    DeclareLaunchArgument("moving", default_value="true", choices=["true", "false"], description="Whether the things move."),
    DeclareLaunchArgument("rate", default_value="10.0", description="Pictures per second."),
    DeclareLaunchArgument(
        "model", default_value="", description="Checkpoint to look at the table with. Empty: the tabletop demo model."
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=str(SHARE / "config" / "demo.yaml"),
        description="Parameter file of the node robobrain; the default one says what is asked again and again.",
    ),
    DeclareLaunchArgument(
        "transport_profile",
        default_value="",
        description="Fast DDS profile of both nodes: large (shared memory with room for whole pictures) or a file.",
    ),
    DeclareLaunchArgument("rviz", default_value="false", choices=["true", "false"], description="Start RViz, too."),
)


def generate_launch_description() -> LaunchDescription:
    """The launch description."""
    camera = Node(
        package="robobrain_ros",
        executable="demo_camera",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        parameters=[
            {
                "seed": ParameterValue(LaunchConfiguration("seed"), value_type=int),
                "moving": ParameterValue(LaunchConfiguration("moving"), value_type=bool),
                "rate": ParameterValue(LaunchConfiguration("rate"), value_type=float),
            }
        ],
    )
    passed_on = ("namespace", "model", "params_file", "transport_profile", "rviz")
    robobrain = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "robobrain.launch.py")),
        launch_arguments={name: LaunchConfiguration(name) for name in passed_on}.items(),
    )
    # In this order: where there is no RViz, the launch ends there, and would leave a camera behind that it has started. And the
    # transport profile counts for what comes after it.
    return LaunchDescription([*ARGUMENTS, robobrain, camera])
