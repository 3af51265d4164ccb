"""Open the cameras that the parameters name."""

from robobrain_ros.ros.cameras.cameras import Camera, CameraListener, Cameras
from robobrain_ros.ros.cameras.images import ImageReader
from robobrain_ros.ros.cameras.intake import Intake
from robobrain_ros.ros.clock import ClockWatch
from robobrain_ros.ros.parameters.declared import Parameters


def open_cameras(intake: Intake, settings: Parameters, watch: ClockWatch, listener: CameraListener) -> Cameras:
    """Subscribe to the topics of the cameras in parameter ``cameras``, with each camera's parameters.

    :param listener: receives each new image and depth image.
    :raises EngineConfigError: remappings give a topic two types. No camera is open then.
    """
    names = settings["cameras"]
    try:
        return Cameras([_open(name, intake, settings, watch, listener) for name in names], names)
    except BaseException:
        intake.unsubscribe_all()
        raise


def _open(name: str, intake: Intake, settings: Parameters, watch: ClockWatch, listener: CameraListener) -> Camera:
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
    )
