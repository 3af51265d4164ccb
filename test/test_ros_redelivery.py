"""Responses whose clients DDS does not know yet: an injected fault, since a test cannot order DDS's announcements."""

from collections.abc import Callable
from typing import Any

import pytest
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.service import Service
from ros_rig import scripted

from robobrain_ros.msg import Outcome
from robobrain_ros.srv import Locate

REQUEST = Locate.Request(instruction="mug")


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], bool]], list[int]]:
    """Lets those responses of ~/point fail, by the number of the try, as rmw_fastrtps does for a reader that it does not know."""

    def fail(which: Callable[[int], bool]) -> list[int]:
        real = Service.send_response
        tries: list[int] = []

        def send(service: Service, response: Any, header: Any) -> None:
            if service.srv_name.endswith("point"):
                tries.append(len(tries) + 1)
                if which(tries[-1]):
                    raise rclpy_implementation.RCLError("failed to send response: client will not receive response")
            real(service, response, header)

        monkeypatch.setattr(Service, "send_response", send)
        return tries

    return fail


def test_a_response_waits_for_a_client_that_is_not_known_yet(unknown: Callable[[Callable[[int], bool]], list[int]]) -> None:
    tries = unknown(lambda number: number <= 3)
    with scripted("[(10, 10)]", max_image_age=0.0) as (it, _):
        answers = [it.send(Locate, "point", REQUEST) for _ in range(3)]
        codes = [it.answer(answer).outcome.code for answer in answers]
        it.until(lambda: not it.node.redelivery.waiting, "an empty store")
        assert it.node.faults.lost_responses == 0
    assert codes == [Outcome.OK] * 3
    assert len(tries) == 6


def test_a_client_that_never_comes_costs_one_response_and_a_log_line(
    unknown: Callable[[Callable[[int], bool]], list[int]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("robobrain_ros.ros.delivery.redelivery._PATIENCE", 0.0)
    unknown(lambda number: number <= 2)
    with scripted("[(10, 10)]", max_image_age=0.0) as (it, _):
        it.send(Locate, "point", REQUEST)
        it.until(lambda: it.node.faults.lost_responses, "the end of the patience")
        after = it.call(Locate, "point", REQUEST)
        assert it.node.faults.lost_responses == 1
        assert not it.node.redelivery.waiting
    assert after.outcome.code == Outcome.OK
    assert "its client is unreachable" in capfd.readouterr().err
