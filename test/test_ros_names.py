"""Remappings that give two topics or services of the node the same name cause a clear message, and everything is closed."""

from typing import Any

import pytest
from fakes import ScriptedEngine
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import GetState
from ros_rig import Rig, image_message, rig

from robobrain_ros.msg import Outcome, QueryOptions
from robobrain_ros.srv import Locate


def state(it: Rig) -> int:
    return int(it.call(GetState, "get_state", GetState.Request()).current_state.id)


@pytest.mark.parametrize(
    ("remappings", "parameters", "sentence"),
    [
        (
            ["camera/image:=/front", "wrist/image/compressed:=/front"],
            {"cameras": ["camera", "wrist"], "wrist__transport": "compressed"},
            "The topic /front has the type sensor_msgs/msg/Image in this node, so it cannot also have the type "
            "sensor_msgs/msg/CompressedImage. Check the remapping of wrist/image/compressed.",
        ),
        (
            ["camera/camera_info:=camera/image"],
            {"cameras": ["camera"]},
            "so it cannot also have the type sensor_msgs/msg/CameraInfo. Check the remapping of camera/camera_info.",
        ),
        (["camera/image:=/diagnostics"], {}, "The topic /diagnostics has the type diagnostic_msgs/msg/DiagnosticArray"),
    ],
)
def test_two_types_on_one_topic_keep_the_node_inactive_without_subscriptions(
    remappings: list[str], parameters: dict[str, Any], sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with rig(ScriptedEngine(["[(10, 10)]"]), autostart=False, remappings=remappings, **parameters) as it:
        assert it.transition(Transition.TRANSITION_CONFIGURE)
        before = list(it.node.subscriptions)
        assert not it.transition(Transition.TRANSITION_ACTIVATE)
        assert state(it) == State.PRIMARY_STATE_INACTIVE
        assert list(it.node.subscriptions) == before
        assert not it.node.faults.count
    log = capfd.readouterr().err
    assert "Cannot activate: The topic " in log
    assert sentence in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("remapping", "sentence"),
    [
        ("~/markers:=~/poses", "so it cannot also have the type"),
        ("~/affordance:=~/point", "/robobrain/point. Check the remapping of ~/affordance."),
        ("~/ask:=~/get_parameters", "/robobrain/get_parameters. Check the remapping of ~/ask."),
    ],
)
def test_two_topics_or_services_of_one_name_keep_the_node_unconfigured(
    remapping: str, sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with rig(ScriptedEngine(["[(10, 10)]"]), autostart=False, remappings=[remapping]) as it:
        before = (list(it.node.publishers), list(it.node.services))
        for _ in range(2):
            assert not it.transition(Transition.TRANSITION_CONFIGURE)
        assert state(it) == State.PRIMARY_STATE_UNCONFIGURED
        assert (list(it.node.publishers), list(it.node.services)) == before
    log = capfd.readouterr().err
    assert sentence in log
    assert "Traceback" not in log


def test_two_cameras_on_one_topic_of_one_type_are_allowed() -> None:
    with rig(
        ScriptedEngine(["[(10, 10)]"]), remappings=["wrist/image:=camera/image"], cameras=["camera", "wrist"], max_image_age=0.0
    ) as it:
        it.until_ready()
        it.show(image_message())
        it.until(lambda: all(camera.newest for camera in it.node.cameras), "the image of both cameras")
        for camera in ("camera", "wrist"):
            request = Locate.Request(instruction="mug", options=QueryOptions(camera=camera))
            assert it.call(Locate, "point", request).outcome.code == Outcome.OK
