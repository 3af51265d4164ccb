"""Messages that the cameras' subscriptions receive, with a real executor and real DDS."""

from collections.abc import Callable, Iterator
from itertools import count
from threading import Thread
from typing import Any

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from ros_rig import LIMIT
from std_msgs.msg import Header

from robobrain_ros.ros.cameras.intake import Intake, Listener

QOS = QoSProfile(depth=5)
STEP = 0.1
_numbers = count()


class Bench:
    """A node with an intake, which spins during each wait, and a node that publishes to it."""

    def __init__(self, context: Any) -> None:
        # DDS may still announce the nodes of the previous test.
        self.namespace = f"/intake_{next(_numbers)}"
        self.node = Node("listener", namespace=self.namespace, context=context)
        self.sender = Node("sender", namespace=self.namespace, context=context)
        self.intake = Intake(self.node)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.heard: list[tuple[str, str]] = []

    def listen(self, topic: str, listener: Listener | None = None) -> Any:
        def hear(message: Header) -> None:
            self.heard.append((topic, message.frame_id))
            if listener is not None:
                listener(message)

        return self.intake.subscribe(Header, topic, hear, QOS)

    def publisher(self, topic: str) -> Any:
        made = self.sender.create_publisher(Header, topic, QOS)
        self.until(lambda: made.get_subscription_count() > 0)
        return made

    def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(round(LIMIT / STEP)):
            if condition():
                return
            self.executor.spin_once(timeout_sec=STEP)
        raise AssertionError(f"it has not come; heard: {self.heard}")

    def until_heard(self, count: int) -> None:
        self.until(lambda: len(self.heard) >= count)


@pytest.fixture
def bench() -> Iterator[Bench]:
    context = rclpy.context.Context()
    rclpy.init(context=context)
    made = Bench(context)
    yield made
    made.executor.shutdown()
    made.node.destroy_node()
    made.sender.destroy_node()
    rclpy.shutdown(context=context)


def test_each_listener_gets_its_own_messages_in_order(bench: Bench) -> None:
    for topic in ("a", "b"):
        bench.listen(topic)
    first, second = bench.publisher("a"), bench.publisher("b")
    for number in range(3):
        first.publish(Header(frame_id=f"a{number}"))
        second.publish(Header(frame_id=f"b{number}"))
    bench.until_heard(6)
    assert [frame for topic, frame in bench.heard if topic == "a"] == ["a0", "a1", "a2"]
    assert [frame for topic, frame in bench.heard if topic == "b"] == ["b0", "b1", "b2"]


def test_the_subscriptions_are_the_nodes(bench: Bench) -> None:
    """``ros2 node info`` shows them as subscriptions of the node."""
    bench.listen("a")
    bench.until(lambda: (f"{bench.namespace}/a", ["std_msgs/msg/Header"]) in names(bench))
    # DDS announces nodes and their subscriptions separately.
    bench.until(lambda: bench.sender.count_subscribers(f"{bench.namespace}/a") == 1)


def names(bench: Bench) -> list[Any]:
    return list(bench.sender.get_subscriber_names_and_types_by_node("listener", bench.namespace))


def test_a_destroyed_subscription_gets_no_messages(bench: Bench) -> None:
    """The listener itself may end the subscription, as a camera does when its reliability changes."""
    taken: list[Any] = []
    taken.append(bench.listen("a", lambda message: bench.intake.unsubscribe(taken.pop())))
    bench.listen("b")
    gone, stays = bench.publisher("a"), bench.publisher("b")
    gone.publish(Header(frame_id="only"))
    bench.until(lambda: not taken)
    gone.publish(Header(frame_id="too late"))
    stays.publish(Header(frame_id="b"))
    bench.until(lambda: ("b", "b") in bench.heard)
    assert bench.heard == [("a", "only"), ("b", "b")]


def test_another_thread_may_subscribe_and_give_back_while_the_executor_waits(bench: Bench) -> None:
    """This happens thousands of times. The process survives, and the remaining subscription receives messages."""
    bench.listen("stays")
    sender = bench.publisher("stays")

    def come_and_go() -> None:
        for number in range(2000):
            bench.intake.unsubscribe(bench.listen(f"guest{number % 7}"))

    guest = Thread(target=come_and_go)
    guest.start()
    sent = 0
    while guest.is_alive():
        sender.publish(Header(frame_id=str(sent)))
        sent += 1
        bench.until_heard(sent)
    guest.join()
    assert [frame for _, frame in bench.heard] == [str(number) for number in range(sent)]


def test_a_listener_that_fails_takes_no_message_from_the_others(bench: Bench) -> None:
    """Both messages arrive before the executor takes them, and the listener of the first one raises."""

    def fail(message: Header) -> None:
        raise ValueError("cannot be worked off")

    bench.listen("a", fail)
    bench.listen("b")
    first, second = bench.publisher("a"), bench.publisher("b")
    first.publish(Header(frame_id="a"))
    second.publish(Header(frame_id="b"))
    with pytest.raises(ValueError, match="cannot be worked off"):
        bench.until(lambda: False)
    bench.until_heard(2)
    assert sorted(bench.heard) == [("a", "a"), ("b", "b")]
