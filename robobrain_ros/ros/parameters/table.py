"""The table of the node's parameters. To add a parameter, add a row, then write the documents again:

python -m robobrain_ros.ros.parameters yaml > config/robobrain.yaml
python scripts/doc_tables.py     # the table of docs/reference/parameters.md
"""

import dataclasses
from typing import Any

from robobrain_ros.core.plans.checks import DEFAULT_MAX_STEPS, MOST_STEPS
from robobrain_ros.core.query import Defaults, Task
from robobrain_ros.engine.options import SERVER_PREFIX, EngineOptions, ServerOptions, public_name
from robobrain_ros.ros.limits import LEAST_RATE, MOST_RATE, MOST_TIMEOUT, MOST_TOKENS
from robobrain_ros.ros.parameters.parameter import Applies, Parameter

STANDING_PREFIX = "standing_query."

NODE_PARAMETERS = (
    Parameter(
        "autostart", True, "Configure and activate by itself; false: wait for a lifecycle manager.", applies=Applies.AT_START
    ),
    Parameter(
        "cameras", ["camera"], "Names of the cameras; each is read from the topics <name>/image or <name>/image/compressed."
    ),
    Parameter(
        "image_reliability",
        "auto",
        "Reliability of the camera subscriptions. auto: as the publishers'. best_effort loses many large images.",
        choices=("auto", "best_effort", "reliable"),
    ),
    Parameter(
        "max_image_age",
        2.0,
        "Seconds between an image's stamp and a request beyond which the image is refused as STALE_IMAGE. 0: never.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=1e9,
    ),
    Parameter(
        "sync_tolerance",
        0.01,
        "Seconds between an image's stamp and that of its depth image; depth that differs more is not used.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=10.0,
    ),
    Parameter(
        "target_frame",
        "",
        "Frame of all positions, by tf2 at the image's stamp. Empty: the image's own optical frame.",
    ),
    Parameter(
        "transform_timeout",
        0.2,
        "Seconds that an answer waits for its image's depth image, camera_info and transform.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=60.0,
    ),
    Parameter(
        "request_timeout",
        Defaults.timeout,
        "Seconds a request may take where it does not say itself.",
        applies=Applies.AT_ONCE,
        minimum=0.01,
        maximum=MOST_TIMEOUT,
    ),
    Parameter(
        "max_tokens",
        Defaults.max_tokens,
        "Tokens an answer may have where the request does not say itself, thinking not counted.",
        applies=Applies.AT_ONCE,
        minimum=1,
        maximum=MOST_TOKENS,
    ),
    Parameter(
        "think",
        False,
        "Think first, which costs seconds, where the request does not say itself and the model was trained to.",
        applies=Applies.AT_ONCE,
    ),
    Parameter(
        "think_tokens",
        Defaults.think_tokens,
        "Tokens the model may think; then it is made to answer.",
        applies=Applies.AT_ONCE,
        minimum=1,
        maximum=MOST_TOKENS,
    ),
    Parameter(
        "constrain_coordinates",
        Defaults.constrain_coordinates,
        "Let the model answer spatial tasks by lists of coordinates within the image alone, [] where nothing is found; its "
        "thinking stays free. A remote server must know structured outputs, as vLLM's does; others may ignore or refuse it.",
        applies=Applies.AT_ONCE,
    ),
    Parameter(
        "model_can_think",
        "auto",
        "Whether the checkpoint was trained to think. auto: as is known of its name, else as its family; its files do not say.",
        choices=("auto", "yes", "no"),
    ),
    Parameter(
        "max_queued",
        32,
        "Requests that may wait while engine.max_num_seqs others are worked on; the next one is refused as BUSY.",
        minimum=0,
        maximum=100000,
    ),
    Parameter(
        "marker_ray_length",
        0.5,
        "Metres of the rays on ~/markers that stand for what has no depth. 0: it is not shown.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=1000.0,
    ),
    Parameter(
        "marker_lifetime",
        30.0,
        "Seconds that an answer stays on ~/markers unless a newer one to its query supersedes it. 0: until then.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=1e9,
    ),
    Parameter(
        "overlay_thinking",
        False,
        "Write what the model thought on ~/overlay, too, as far as there is room.",
        applies=Applies.AT_ONCE,
    ),
    Parameter(
        "robots_file",
        "",
        "File with the robots that plans are made for where a request names none, as config/robots_example.yaml. A relative path "
        "starts at the node's working directory. Empty: none.",
    ),
    Parameter(
        "max_plan_steps",
        DEFAULT_MAX_STEPS,
        "Most steps of a plan where the request does not say itself.",
        applies=Applies.AT_ONCE,
        minimum=1,
        maximum=MOST_STEPS,
    ),
    Parameter("warm_up", True, "Run each task once after loading, so that the first request is as quick as the later ones."),
    Parameter(
        "standing_queries",
        [],
        f"Names of the standing queries set from the beginning; each is described by {STANDING_PREFIX}<name>.*",
    ),
)


def camera_parameters(camera: str) -> tuple[Parameter, ...]:
    """The parameters that each camera has."""
    return (
        Parameter(
            f"{camera}.transport",
            "raw",
            f"raw: sensor_msgs/Image on {camera}/image; compressed: sensor_msgs/CompressedImage on {camera}/image/compressed.",
            choices=("raw", "compressed"),
        ),
        Parameter(
            f"{camera}.reliability",
            "",
            "Reliability of this camera's subscriptions, as of image_reliability. Empty: as that says.",
            choices=("", "auto", "best_effort", "reliable"),
        ),
        Parameter(
            f"{camera}.queue",
            1,
            "Images that may wait to be received. Only the newest is asked about: more than 1 helps none but the statistics.",
            minimum=1,
            maximum=100,
        ),
        Parameter(
            f"{camera}.late_after",
            0.2,
            "Seconds between an image's stamp and its arrival from which on it counts as late in /diagnostics.",
            minimum=0.0,
            maximum=3600.0,
        ),
        Parameter(
            f"{camera}.max_pixels",
            0,
            "Pixels an image of this camera may have in the model's eyes, where fewer than engine.max_pixels. 0: as many.",
            applies=Applies.AT_ONCE,
            minimum=0,
            maximum=12845056,
        ),
        Parameter(
            f"{camera}.use_depth",
            False,
            f"Give positions by the depth image on {camera}/depth (aligned to the image) and the lens on {camera}/camera_info; "
            "asked about is the newest image that has both.",
        ),
        Parameter(
            f"{camera}.min_depth",
            0.0,
            "Smallest depth in metres that counts as measured, in depth images and in the model's own depths.",
            applies=Applies.AT_ONCE,
            minimum=0.0,
            maximum=10000.0,
        ),
        Parameter(
            f"{camera}.max_depth",
            20.0,
            "Depths of this value in metres or more count as not measured. If the driver clamps, set the depth at which it "
            "clamps.",
            applies=Applies.AT_ONCE,
            minimum=0.01,
            maximum=10000.0,
        ),
        Parameter(
            f"{camera}.detect_depth_clamp",
            True,
            "Leave out the depth at which a driver clamps: many pixels hold exactly the largest depth of the image, and it is a "
            "whole number of metres from 4 m on, or 4095, 8191, ... mm. Set false for simulations without noise.",
            applies=Applies.AT_ONCE,
        ),
        Parameter(
            f"{camera}.depth_transport",
            "auto",
            f"raw: sensor_msgs/Image on {camera}/depth. compressed: sensor_msgs/CompressedImage (compressedDepth, or 16-bit PNG) "
            f"on {camera}/depth/compressedDepth. auto: the type that is published on these two topics.",
            choices=("auto", "raw", "compressed"),
        ),
        Parameter(
            f"{camera}.rectified",
            "auto",
            "Whether images are rectified: P of camera_info describes them, not K and D. auto: if rect is in the topic's name.",
            choices=("auto", "yes", "no"),
        ),
        Parameter(
            f"{camera}.bit_depth",
            0,
            "Bits that the sensor uses in 16-bit images: 0 is black, 2^bit_depth - 1 is white. 0 scales each image by its own "
            "samples (docs/reference/interfaces.md).",
            minimum=0,
            maximum=16,
        ),
        Parameter(
            f"{camera}.swap_red_blue",
            False,
            "Exchange red and blue of this camera's images. Set true where the publisher writes them in the wrong order.",
        ),
    )


def standing_query_parameters(name: str) -> tuple[Parameter, ...]:
    """The parameters that each standing query of the parameter ``standing_queries`` has."""
    prefix = f"{STANDING_PREFIX}{name}."
    return (
        Parameter(f"{prefix}task", Task.POINT.value, "What is asked for.", choices=tuple(task.value for task in Task)),
        Parameter(f"{prefix}instruction", "", "The instruction or question."),
        Parameter(
            f"{prefix}rate",
            1.0,
            "Most requests per second. 0 asks on each new image.",
            minimum=0.0,
            maximum=MOST_RATE,
            least=LEAST_RATE,
        ),
        Parameter(f"{prefix}camera", "", "Name of the camera. Empty: the first of them."),
        Parameter(
            f"{prefix}cameras", [], "Names of several cameras instead, for plan and ask. Asked when the first has a new image."
        ),
    )


def engine_parameters() -> tuple[Parameter, ...]:
    """One parameter for each field of `EngineOptions`."""
    return tuple(_option_parameter(public_name(field.name), field) for field in dataclasses.fields(EngineOptions))


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
    return NODE_PARAMETERS + engine_parameters() + server_parameters()
