"""Open the cameras that the parameters name."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from robobrain_ros.core.messages.images import ImageReader
from robobrain_ros.errors import EngineConfigError
from robobrain_ros.ros.cameras.cameras import Camera, CameraListener, Cameras
from robobrain_ros.ros.cameras.history import FrameHistory
from robobrain_ros.ros.cameras.intake import Intake
from robobrain_ros.ros.clock import ClockWatch
from robobrain_ros.ros.parameters.declared import Parameters


def open_cameras(intake: Intake, settings: Parameters, watch: ClockWatch, listener: CameraListener) -> Cameras:
    """Subscribe to the topics of the cameras in parameter ``cameras``, with each camera's parameters.

    :param listener: receives each new image and depth image.
    :raises EngineConfigError: remappings give a topic two types. No camera is open then.
    """
    names = settings["cameras"]
    # One thread encodes the images of all cameras, so that the buffers use at most one core. It starts with the first image.
    encoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="history")
    try:
        cameras = [_open(name, intake, settings, watch, listener, encoder.submit) for name in names]
        return Cameras(cameras, names, on_close=lambda: encoder.shutdown(wait=False, cancel_futures=True))
    except BaseException:
        intake.unsubscribe_all()
        raise


def check_histories(settings: Parameters) -> None:
    """Check the parameters of the cameras' buffers.

    :raises EngineConfigError: only one of the two parameters of a buffer is set.
    """
    for name in settings["cameras"]:
        seconds, frames = settings[f"{name}.history_seconds"], settings[f"{name}.history_frames"]
        if bool(seconds) != bool(frames):
            raise EngineConfigError(
                f"{name}.history_seconds is {seconds:g} and {name}.history_frames is {frames}. Set both to keep recent images, "
                "or none."
            )


def _history(name: str, settings: Parameters, submit: Callable[..., Any]) -> FrameHistory | None:
    frames = settings[f"{name}.history_frames"]
    return FrameHistory(name, settings[f"{name}.history_seconds"], frames, submit) if frames else None


def _open(
    name: str,
    intake: Intake,
    settings: Parameters,
    watch: ClockWatch,
    listener: CameraListener,
    submit: Callable[..., Any],
) -> Camera:
    return Camera(
        intake,
        name,
        transport=settings[f"{name}.transport"],
        reliability=settings[f"{name}.reliability"] or settings["image_reliability"],
        listener=listener,
        queue=settings[f"{name}.queue"],
        late_after=settings[f"{name}.late_after"],
        use_depth=settings[f"{name}.use_depth"],
        depth_transport=settings[f"{name}.depth_transport"],
        rectified=settings[f"{name}.rectified"],
        watch=watch,
        reader=ImageReader(name, swap_red_blue=settings[f"{name}.swap_red_blue"], bit_depth=settings[f"{name}.bit_depth"]),
        history=_history(name, settings, submit),
    )
