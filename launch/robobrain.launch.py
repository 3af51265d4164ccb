"""Starts the node robobrain.

ros2 launch robobrain_ros robobrain.launch.py model:=robobrain2.0-7b image_topic:=/front/image_raw
"""

from pathlib import Path

import yaml
from ament_index_python.packages import get_package_prefix, get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import Action, LaunchContext, LaunchDescription
from robobrain_ros.ros.process import ending

SHARE = Path(get_package_share_directory("robobrain_ros"))

DEFAULT_PARAMETERS = str(SHARE / "config" / "robobrain.yaml")
WHAT_IT_IS = ("model", "quantization")
"""What a model's file says of the engine that no parameter file overrules: a copy of the default one has "" there."""

ARGUMENTS = (
    DeclareLaunchArgument(
        "model",
        default_value="",
        description="Checkpoint: the name of a file in config/models such as robobrain2.0-7b, a folder, or a name on the hub "
        "such as BAAI/RoboBrain2.0-7B. Empty: as params_file says.",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=DEFAULT_PARAMETERS,
        description="Parameter file of the node; the default one describes every parameter. Another one counts above the model's "
        "file, but for which model it is.",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and its topics."),
    DeclareLaunchArgument(
        "image_topic",
        default_value="camera/image",
        description="Image of the camera called camera; a topic that ends in /compressed is read as CompressedImage.",
    ),
    DeclareLaunchArgument(
        "camera_info_topic", default_value="camera/camera_info", description="Calibration of the camera called camera."
    ),
    DeclareLaunchArgument(
        "depth_topic",
        default_value="",
        description="Depth aligned to the image of the camera called camera, raw or compressed, for positions. Empty: as "
        "params_file says.",
    ),
    DeclareLaunchArgument(
        "target_frame", default_value="", description="Frame of the positions, such as base_link. Empty: as params_file says."
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="",
        choices=["", "true", "false"],
        description="Take the time from /clock (simulation). Empty: as params_file says.",
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="",
        choices=["", "true", "false"],
        description="Configure and activate by itself; false: wait for a lifecycle manager. Empty: as params_file says.",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="From which level on the node's log lines are shown.",
    ),
    DeclareLaunchArgument(
        "transport_profile",
        default_value="",
        description="Fast DDS profile of what is started: large (shared memory with room for whole images) or a file. "
        "Empty: as the environment says. The camera's driver needs it, too.",
    ),
    DeclareLaunchArgument("rviz", default_value="false", choices=["true", "false"], description="Start RViz, too."),
    DeclareLaunchArgument(
        "fixed_frame",
        default_value="",
        description="Fixed frame of RViz. Empty: target_frame, or the frame of the first image on image_topic.",
    ),
)

_PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
"""Where Fast DDS, the newer and the older (up to ROS 2 Jazzy), is told its transports."""


def what_it_is(model_file: Path) -> dict[str, object]:
    """The parameters that say which model a file is of."""
    said = yaml.safe_load(model_file.read_text(encoding="utf-8"))["/**"]["ros__parameters"]
    engine = {f"engine.{name}": said["engine"][name] for name in WHAT_IT_IS if name in said["engine"]}
    return {"model_can_think": said.get("model_can_think", "auto"), **engine}


def make_nodes(context: LaunchContext) -> list[Action]:
    """The nodes; a function, since what the arguments leave open must not overrule the parameter file."""
    value = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    if not Path(value["params_file"]).is_file():
        # launch_ros would warn and start the node without it, with another model than was meant.
        raise FileNotFoundError(f"params_file: there is no file {value['params_file']}.")
    profile = str(SHARE / "config" / "fastdds_large.xml") if value["transport_profile"] == "large" else value["transport_profile"]
    if profile and not Path(profile).is_file():
        # Fast DDS would say nothing and go on with its defaults.
        raise FileNotFoundError(f"transport_profile: there is no file {profile}; it is large, a file, or empty.")
    switches = {name: value[name] == "true" for name in ("use_sim_time", "autostart") if value[name]}
    parameters: dict[str, object] = dict(switches)
    files = [value["params_file"]]
    if value["model"]:
        parameters["engine.model"] = value["model"]
        model_file = SHARE / "config" / "models" / f"{value['model'].lower()}.yaml"
        if model_file.is_file():
            # Below a file of the user's own, above the one that holds nothing but defaults.
            files.insert(1 if value["params_file"] == DEFAULT_PARAMETERS else 0, str(model_file))
            parameters |= what_it_is(model_file)
    if value["target_frame"]:
        parameters["target_frame"] = value["target_frame"]
    remappings = [("camera/camera_info", value["camera_info_topic"])]
    if value["depth_topic"]:
        parameters["camera.use_depth"] = True
        remappings.append(("camera/depth", value["depth_topic"]))
    image = "camera/image"
    if value["image_topic"].endswith("/compressed"):
        image = "camera/image/compressed"
        parameters["camera.transport"] = "compressed"
    # Only the node's own logger: at level debug, those of rcl and DDS write hundreds of lines a second.
    logger = ".".join([*value["namespace"].strip("/").split("/"), "robobrain"]).lstrip(".")
    # For all that is started from here on, the demo camera, too.
    nodes: list[Action] = [SetEnvironmentVariable(name, profile) for name in _PROFILES if profile]
    if value["rviz"] == "true":
        get_package_prefix("rviz2")  # Without RViz the launch ends here, before it has started a node.
        frame = value["fixed_frame"] or value["target_frame"]
        nodes.append(
            Node(
                package="robobrain_ros",
                executable="rviz",
                namespace=value["namespace"],
                output="screen",
                arguments=[
                    *("-d", str(SHARE / "rviz" / "robobrain.rviz")),
                    *("--image-topic", value["image_topic"], "--fixed-frame", frame),
                ],
                parameters=[{"use_sim_time": switches.get("use_sim_time", False)}],
                remappings=[("camera/image", value["image_topic"].removesuffix("/compressed")), *remappings],
            )
        )
    nodes.append(
        Node(
            package="robobrain_ros",
            executable="robobrain",
            name="robobrain",
            namespace=value["namespace"],
            output="screen",
            parameters=[*files, parameters],
            remappings=[(image, value["image_topic"]), *remappings],
            arguments=["--ros-args", "--log-level", f"{logger}:={value['log_level']}"],
            # The node ends by itself before launch sends it another signal.
            sigterm_timeout=str(ending.LIMIT + 5.0),
        )
    )
    return nodes


def generate_launch_description() -> LaunchDescription:
    """The launch description."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=make_nodes)])
