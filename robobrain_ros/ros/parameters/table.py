"""The table of the node's parameters.

To add a parameter, add a row. Then run ``python scripts/doc_tables.py``. It writes config/robobrain.yaml and the table of
docs/reference/parameters.md.
"""

import dataclasses
from typing import Any

from robobrain_ros.core.grids import GridMode
from robobrain_ros.core.plans.checks import DEFAULT_MAX_STEPS, MOST_STEPS
from robobrain_ros.core.profiles import AUTO
from robobrain_ros.core.query import Defaults
from robobrain_ros.engine.base import LARGEST_MAX_PIXELS
from robobrain_ros.engine.http.options import ServerOptions
from robobrain_ros.engine.options import SERVER_PREFIX, option_fields, public_name
from robobrain_ros.ros.limits import (
    LEAST_HISTORY,
    LEAST_LIFETIME,
    LONGEST_HISTORY,
    MOST_CAMERAS,
    MOST_FRAME,
    MOST_HISTORY,
    MOST_NAME,
    MOST_QUERIES,
    MOST_TASK_MODELS,
    MOST_TIMEOUT,
    MOST_TOKENS,
)
from robobrain_ros.ros.parameters.motion import MOTION_PARAMETERS
from robobrain_ros.ros.parameters.parameter import Applies, Parameter
from robobrain_ros.ros.parameters.standing import STANDING_PREFIX

_NAMES = f"A name has at most {MOST_NAME} letters, digits and _, and does not begin with a digit."

NODE_PARAMETERS = (
    Parameter(
        "autostart",
        True,
        "Configure and activate the node when it starts. false: a lifecycle manager does this.",
        applies=Applies.AT_START,
    ),
    Parameter(
        "cameras",
        ["camera"],
        f"Names of the cameras, at most {MOST_CAMERAS}. {_NAMES} Each camera has the topics <camera>/image or "
        "<camera>/image/compressed, <camera>/camera_info and <camera>/depth.",
    ),
    Parameter(
        "image_reliability",
        "auto",
        "Reliability of the camera subscriptions. auto: reliable if all publishers of the topic are reliable, otherwise best "
        "effort. With Fast DDS's default settings, a best_effort subscription loses large images even at low image rates. A "
        "reliable subscription loses them only at high image rates (docs/how-to/troubleshooting.md).",
        choices=("auto", "best_effort", "reliable"),
    ),
    Parameter(
        "max_image_age",
        2.0,
        "Maximum age of an image in seconds when a request uses it. The age counts from the image's stamp, or from its arrival "
        "if it has no stamp. If the image is older, the request ends with STALE_IMAGE. The same happens if the stamp is ahead of "
        "the node's clock by more than this value. 0: no limit.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=1e9,
    ),
    Parameter(
        "sync_tolerance",
        0.01,
        "Maximum difference in seconds between the stamps of an image and its depth image. The node ignores depth images with a "
        "larger difference.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=10.0,
    ),
    Parameter(
        "target_frame",
        "",
        "Frame of the positions. The node transforms positions with tf2 at the image's stamp. If there is no transform, the "
        "positions stay in the image's frame, and position_note states the reason. header.frame_id names the frame of each "
        "result. Empty: the image's frame.",
        longest=MOST_FRAME,
    ),
    Parameter(
        "transform_timeout",
        0.2,
        "Maximum time in seconds that the node waits in total for the depth image, camera_info and transform of an image. The "
        "wait begins when the model has answered, and ends at the deadline of the request at the latest.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=60.0,
    ),
    Parameter(
        "request_timeout",
        Defaults.timeout,
        "Time limit of a request in seconds. A request that takes longer ends with TIMEOUT. options.timeout of a request "
        "overrides it.",
        applies=Applies.AT_ONCE,
        minimum=0.01,
        maximum=MOST_TIMEOUT,
    ),
    Parameter(
        "max_tokens",
        Defaults.max_tokens,
        "Token limit of an answer. options.max_tokens of a request overrides it. Thinking has its own limit, think_tokens. Two "
        "kinds of requests ignore max_tokens and options.max_tokens: plans for robots (context.robots or robots_file), and "
        "requests with context.mode MODE_CHECK. Their limit is the length of the longest allowed answer, because a truncated "
        "answer is not valid.",
        applies=Applies.AT_ONCE,
        minimum=1,
        maximum=MOST_TOKENS,
    ),
    Parameter(
        "think",
        False,
        "Let the model think before it answers, if it was trained to think. Thinking takes seconds. options.think of a request "
        "overrides it.",
        applies=Applies.AT_ONCE,
    ),
    Parameter(
        "think_tokens",
        Defaults.think_tokens,
        "Token limit of the thinking. When the model reaches the limit, it stops thinking and answers.",
        applies=Applies.AT_ONCE,
        minimum=1,
        maximum=MOST_TOKENS,
    ),
    Parameter(
        "constrain_coordinates",
        Defaults.constrain_coordinates,
        "true: answers of the tasks point, affordance, ground and trajectory can only be a list of coordinates inside the image, "
        "or [] if the model found nothing. Answers to conditions (standing queries with condition: true) can only be yes or no. "
        "false: these answers can be any text. The parameter does not affect thinking. With engine.kind remote, the server must "
        "support structured outputs. vLLM supports them.",
        applies=Applies.AT_ONCE,
    ),
    Parameter(
        "model_can_think",
        "auto",
        "Whether the checkpoint was trained to think. The files of a checkpoint do not state this. auto: if the model is "
        "listed in docs/reference/models.md and model_profile (the next parameter) is auto, the value of the column thinks. "
        "Otherwise, the value of the model profile.",
        choices=("auto", "yes", "no"),
    ),
    Parameter(
        "model_profile",
        AUTO,
        "Profile of the model family: its prompts, and the form and unit of its answers. auto: the node identifies the family by "
        "the checkpoint's name, config.json, model card, chat template and special tokens. If none of them names a family, the "
        "node guesses it from model_type in config.json, and logs a warning. Any other value is the name of a profile, such as "
        "rynnbrain. The profiles of this package are in docs/reference/models.md. Other packages can add profiles.",
    ),
    Parameter(
        "max_queued",
        32,
        "Maximum number of waiting requests. A request waits while engine.max_num_seqs other requests are in progress. If "
        "max_queued requests wait, a new request ends with BUSY. However, a new request of a service or of ~/run_task replaces a "
        "waiting request of a standing query or of ~/watch_task, if there is one. The replaced request ends with BUSY.",
        minimum=0,
        maximum=100000,
    ),
    Parameter(
        "marker_ray_length",
        0.5,
        "Length in metres of the rays on ~/markers. Rays show a point, a bounding box or a trajectory of unknown depth. 0: no "
        "rays.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=1000.0,
    ),
    Parameter(
        "marker_lifetime",
        30.0,
        "Seconds after which RViz removes markers. 0: no limit. Newer answers replace markers before this time. An answer to a "
        "standing query replaces the markers of this query. An answer to a service or an action replaces the markers of all "
        "services and actions.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=1e9,
        least=LEAST_LIFETIME,
    ),
    Parameter(
        "overlay_thinking",
        False,
        "Write the model's thinking on ~/overlay. Text that does not fit is cut off.",
        applies=Applies.AT_ONCE,
    ),
    Parameter(
        "robots_file",
        "",
        "YAML file that describes robots. A request of the task plan uses these robots if it names no robots itself. Example: "
        "config/robots_example.yaml. Empty: no robots.",
    ),
    Parameter(
        "max_plan_steps",
        DEFAULT_MAX_STEPS,
        "Maximum number of steps of a plan for robots. Plans without robots are text and have no such limit. context.max_steps "
        "of a request overrides it.",
        applies=Applies.AT_ONCE,
        minimum=1,
        maximum=MOST_STEPS,
    ),
    Parameter(
        "grid_check",
        GridMode.WARN.value,
        "Check after loading whether the model writes coordinates on the grid of its profile. A grid is the unit of coordinates: "
        "pixels, or thousandths of the image. The node asks the model for targets at known positions in rendered images. warn: a "
        "wrong grid is a warning in the log and in /diagnostics. require: the node only becomes ready if the grid is right, or "
        "if the model has no task with coordinates. off: no check. docs/reference/models.md describes the results.",
        choices=tuple(mode.value for mode in GridMode),
    ),
    Parameter("warm_up", True, "Run each task once after loading the model. false: the first requests are slower."),
    Parameter(
        "standing_queries",
        [],
        f"Names of the standing queries that are set by parameters, at most {MOST_QUERIES}. {_NAMES} The parameters of each "
        f"query are {STANDING_PREFIX}<name>.*.",
    ),
    Parameter(
        "task_models",
        [],
        f"Names of further models that serve single tasks instead of engine.model, at most {MOST_TASK_MODELS} "
        f"(docs/how-to/task_models.md). {_NAMES} The parameters of each model are task_model.<name>.*, "
        "with those of its engine: task_model.<name>.engine.* and task_model.<name>.flagos.*.",
    ),
)


def camera_parameters(camera: str) -> tuple[Parameter, ...]:
    """The parameters that each camera has."""
    return (
        Parameter(
            f"{camera}.transport",
            "raw",
            f"raw: sensor_msgs/Image on {camera}/image. compressed: sensor_msgs/CompressedImage on {camera}/image/compressed.",
            choices=("raw", "compressed"),
        ),
        Parameter(
            f"{camera}.reliability",
            "",
            "Reliability of this camera's subscriptions. Empty: the value of image_reliability.",
            choices=("", "auto", "best_effort", "reliable"),
        ),
        Parameter(
            f"{camera}.queue",
            1,
            "Queue depth of the image subscription. The node uses only the newest image. A larger value only makes the count of "
            "lost images in /diagnostics more exact.",
            minimum=1,
            maximum=100,
        ),
        Parameter(
            f"{camera}.late_after",
            0.2,
            "/diagnostics counts an image as late if it arrives more than this many seconds after its stamp.",
            minimum=0.0,
            maximum=3600.0,
        ),
        Parameter(
            f"{camera}.max_pixels",
            0,
            "Pixel limit for this camera's images. 0, or a value above engine.max_pixels, uses engine.max_pixels.",
            applies=Applies.AT_ONCE,
            minimum=0,
            maximum=LARGEST_MAX_PIXELS,
        ),
        Parameter(
            f"{camera}.use_depth",
            False,
            f"Compute positions from {camera}/depth and {camera}/camera_info. The depth images must be aligned to the camera's "
            "images. For the tasks point, affordance, ground and trajectory, the node uses the newest image whose depth image "
            "and camera_info have arrived. This image must not be older than max_image_age, and must have arrived at most 0.5 s "
            "before the camera's newest image. Otherwise, the node uses the camera's newest image, and waits up to "
            "transform_timeout for the depth image.",
        ),
        Parameter(
            f"{camera}.min_depth",
            0.0,
            "The node ignores depths below this value, in metres. The limit applies to depth images, and to depths that the "
            "model estimates.",
            applies=Applies.AT_ONCE,
            minimum=0.0,
            maximum=10000.0,
        ),
        Parameter(
            f"{camera}.max_depth",
            20.0,
            "The node ignores depths equal to or above this value, in metres. The limit applies to depth images, and to depths "
            "that the model estimates. If your driver writes its maximum depth where it measured nothing, and detect_depth_clamp "
            "does not detect this, set this parameter to the driver's maximum depth.",
            applies=Applies.AT_ONCE,
            minimum=0.01,
            maximum=10000.0,
        ),
        Parameter(
            f"{camera}.detect_depth_clamp",
            True,
            "Some drivers write their maximum depth where they measured nothing. true: the node ignores the largest depth of a "
            "depth image if at least 0.5 % of the pixels have exactly this depth, and if it is a usual maximum of a driver. "
            "Usual maxima are 4 m and larger whole numbers of metres; 4.095, 8.191, 16.383 and 32.767 m (12 to 15 bits in units "
            "of 1 mm); 6.5535 m (16 bits in units of 0.1 mm); and 16.38375 m (16 bits in units of 0.25 mm). The node always "
            "ignores 65.535 m (16 bits in units of 1 mm), also with false. Set false for simulations without noise, where many "
            "pixels of a flat wall have the same depth.",
            applies=Applies.AT_ONCE,
        ),
        Parameter(
            f"{camera}.depth_transport",
            "auto",
            f"raw: sensor_msgs/Image on {camera}/depth. compressed: sensor_msgs/CompressedImage on "
            f"{camera}/depth/compressedDepth, in the format compressedDepth or 16-bit PNG. auto: the first of these that has a "
            f"publisher: (1) sensor_msgs/Image on {camera}/depth, (2) sensor_msgs/CompressedImage on {camera}/depth, (3) "
            f"sensor_msgs/CompressedImage on {camera}/depth/compressedDepth.",
            choices=("auto", "raw", "compressed"),
        ),
        Parameter(
            f"{camera}.rectified",
            "auto",
            "Whether the images are rectified. yes: the node computes positions with P of camera_info. no: the node computes "
            "positions with K and D of camera_info, and rotates them by R. In ROS, the frame_id of a camera names the frame of "
            "the rectified image, and R rotates into this frame. For a single camera, R is the identity. auto: yes if the name "
            "of the image topic, after remapping, contains the word rect or rectified, as in image_rect; otherwise no.",
            choices=("auto", "yes", "no"),
        ),
        Parameter(
            f"{camera}.bit_depth",
            0,
            "Number of bits per sample that the sensor uses in 16-bit images. With 12 bits, 4095 is white. 0: the node selects "
            "the scale for each image (docs/reference/interfaces.md).",
            minimum=0,
            maximum=16,
        ),
        Parameter(
            f"{camera}.swap_red_blue",
            False,
            "Swap red and blue in this camera's images. Set true if the publisher writes the channels in the wrong order.",
        ),
        Parameter(
            f"{camera}.history_seconds",
            0.0,
            "Seconds of recent images that the node keeps for requests with options.history_seconds. It needs "
            f"{camera}.history_frames. 0: no recent images.",
            minimum=0.0,
            maximum=LONGEST_HISTORY,
            least=LEAST_HISTORY,
        ),
        Parameter(
            f"{camera}.history_frames",
            0,
            f"Number of recent images that the node keeps, evenly spaced over {camera}.history_seconds, as JPEG in memory. "
            "All of them together have a limit of history_frames x 1 MiB. If they exceed it, the node drops the oldest ones. "
            f"It needs {camera}.history_seconds. 0: no recent images.",
            minimum=0,
            maximum=MOST_HISTORY,
            least=2,
        ),
    )


def engine_parameters() -> tuple[Parameter, ...]:
    """One parameter for each option of the engine."""
    return tuple(_option_parameter(public_name(keyword), field) for keyword, field in option_fields().items())


def server_parameters() -> tuple[Parameter, ...]:
    """One parameter for each field of `ServerOptions`."""
    return tuple(_option_parameter(server_name(field.name), field) for field in dataclasses.fields(ServerOptions))


def server_name(option: str) -> str:
    """The parameter of a field of `ServerOptions`."""
    return f"{SERVER_PREFIX}{option}"


def _option_parameter(name: str, field: "dataclasses.Field[Any]") -> Parameter:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if isinstance(default, tuple | list):
        default = list(default)
    assert isinstance(default, bool | int | float | str | list), f"{name} has no default that ROS can hold"
    return Parameter(
        name,
        default,
        field.metadata["description"],
        minimum=field.metadata.get("minimum"),
        maximum=field.metadata.get("maximum"),
        choices=tuple(field.metadata.get("choices", ())),
    )


def table() -> tuple[Parameter, ...]:
    """Every parameter whose name is fixed, the node's first."""
    return NODE_PARAMETERS + MOTION_PARAMETERS + engine_parameters() + server_parameters()
