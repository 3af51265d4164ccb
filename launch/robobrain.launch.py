"""Start the node robobrain.

ros2 launch robobrain_ros robobrain.launch.py model:=robobrain2.0-7b image_topic:=/front/image_raw
"""

from importlib.util import find_spec
from pathlib import Path

import yaml
from ament_index_python.packages import get_package_prefix, get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import Action, LaunchContext, LaunchDescription
from robobrain_ros.ros.process import shutdown
from robobrain_ros.ros.process.transport_profile import profile_variable

SHARE = Path(get_package_share_directory("robobrain_ros"))

ARGUMENTS = (
    DeclareLaunchArgument(
        "model",
        default_value="",
        description="Checkpoint: a preset such as robobrain2.0-7b, a folder, a name on the hub such as BAAI/RoboBrain2.0-7B, or "
        "the name of your own file in the installed config/models. Empty: as in params_file.",
    ),
    DeclareLaunchArgument(
        "model_profile",
        default_value="",
        description="Profile of the model family, such as rynnbrain (docs/reference/models.md). Empty: as in params_file.",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value="",
        description="Parameter file of the node. It takes precedence over the preset of the model. config/robobrain.yaml lists "
        "every parameter. Empty: the defaults.",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and its topics."),
    DeclareLaunchArgument(
        "image_topic",
        default_value="camera/image",
        description="Image topic of the camera named camera. If it ends in /compressed, its type is CompressedImage.",
    ),
    DeclareLaunchArgument(
        "camera_info_topic", default_value="camera/camera_info", description="Topic of camera_info of the camera named camera."
    ),
    DeclareLaunchArgument(
        "depth_topic",
        default_value="",
        description="Depth topic of the camera named camera, raw or compressed, aligned to its image, for positions in metres. "
        "Empty: as in params_file.",
    ),
    DeclareLaunchArgument(
        "target_frame", default_value="", description="Frame of the positions, such as base_link. Empty: as in params_file."
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="",
        choices=["", "true", "false"],
        description="Use simulated time from /clock. Empty: as in params_file.",
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="",
        choices=["", "true", "false"],
        description="Configure and activate the node at start. If false, a lifecycle manager does it. Empty: as in params_file.",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="Lowest level of the node's log lines that are shown.",
    ),
    DeclareLaunchArgument(
        "transport_profile",
        default_value="",
        description="Fast DDS profile of the started nodes: large (shared memory with room for whole images) or a file. "
        "Empty: as in the environment. The camera driver needs the same profile.",
    ),
    DeclareLaunchArgument("rviz", default_value="false", choices=["true", "false"], description="Also start RViz."),
    DeclareLaunchArgument(
        "live",
        default_value="false",
        choices=["true", "false"],
        description="Also start the live view, a page in the browser. Its address is in the log.",
    ),
    DeclareLaunchArgument("live_port", default_value="8090", description="TCP port of the live view; 0: any free port."),
    DeclareLaunchArgument(
        "fixed_frame",
        default_value="",
        description="Fixed frame of RViz. Empty: target_frame, or else the frame of the first image.",
    ),
)


def parameter_sources(params_file: str, model: str) -> list[object]:
    """Return the parameter files and values of the node, later ones override earlier ones.

    The node itself applies the preset of the model. A file in config/models belongs to a user and is an ordinary parameter file.
    """
    sources: list[object] = []
    if params_file:
        if not Path(params_file).is_file():
            # launch_ros would only log a warning, and start the node without the file and with another model.
            raise FileNotFoundError(f"params_file: there is no file {params_file}.")
        sources.append(params_file)
    if not model:
        return sources
    model_file = SHARE / "config" / "models" / f"{model.lower()}.yaml"
    own = [str(model_file)] if "/" not in model and model_file.is_file() else []
    # launch_ros addresses single values to the node by its name, and ROS lets these override files for all nodes.
    return [*sources, *own] if own and names_model(model_file) else [*sources, {"engine.model": model}, *own]


def names_model(path: Path) -> bool:
    """Return whether a parameter file sets ``engine.model`` for any node."""
    nodes = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    values = [node.get("ros__parameters") or {} for node in nodes.values() if isinstance(node, dict)]
    return any("engine.model" in value or "model" in (value.get("engine") or {}) for value in values)


def make_nodes(context: LaunchContext) -> list[Action]:
    """Return the nodes. Arguments that are not set must not override the parameter file."""
    value = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    sources = parameter_sources(value["params_file"], value["model"])
    profile = str(SHARE / "config" / "fastdds_large.xml") if value["transport_profile"] == "large" else value["transport_profile"]
    if profile and not Path(profile).is_file():
        # Fast DDS would silently use its defaults.
        raise FileNotFoundError(f"transport_profile: there is no file {profile}. Use large, a file, or leave it empty.")
    switches = {name: value[name] == "true" for name in ("use_sim_time", "autostart") if value[name]}
    parameters: dict[str, object] = dict(switches)
    if value["model_profile"]:
        parameters["model_profile"] = value["model_profile"]
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
    # The level applies only to the logger of the node. At level debug, rcl and DDS write hundreds of lines a second.
    logger = ".".join([*value["namespace"].strip("/").split("/"), "robobrain"]).lstrip(".")
    if value["live"] == "true" and find_spec("viser") is None:
        raise RuntimeError("The live view needs the Python package viser. Install it with: pip install 'robobrain_ros[live]'")
    # The variable applies to everything that starts afterwards, including the demo camera.
    nodes: list[Action] = [SetEnvironmentVariable(profile_variable(), profile)] if profile else []
    if value["rviz"] == "true":
        get_package_prefix("rviz2")  # If RViz is not installed, this ends the launch before a node has started.
        frame = value["fixed_frame"] or value["target_frame"]
        nodes.append(
            Node(
                package="robobrain_ros",
                executable="rviz",
                namespace=value["namespace"],
                output="screen",
                arguments=["--image-topic", value["image_topic"], "--fixed-frame", frame],
                parameters=[{"use_sim_time": switches.get("use_sim_time", False)}],
                remappings=[
                    ("camera/image", value["image_topic"].removesuffix("/compressed")),
                    *remappings,
                ],
            )
        )
    nodes.append(
        Node(
            package="robobrain_ros",
            executable="robobrain",
            name="robobrain",
            namespace=value["namespace"],
            output="screen",
            parameters=[*sources, parameters],
            remappings=[(image, value["image_topic"]), *remappings],
            arguments=["--ros-args", "--log-level", f"{logger}:={value['log_level']}"],
            # The node ends within `shutdown.LIMIT`, before launch sends it another signal.
            sigterm_timeout=str(shutdown.LIMIT + 5.0),
        )
    )
    if value["live"] == "true":
        nodes.append(
            Node(
                package="robobrain_ros",
                executable="live",
                namespace=value["namespace"],
                output="screen",
                arguments=["--port", value["live_port"], "--info-topic", value["camera_info_topic"]],
                parameters=[{"use_sim_time": switches.get("use_sim_time", False)}],
            )
        )
    return nodes


def generate_launch_description() -> LaunchDescription:
    """Return the launch description."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=make_nodes)])
