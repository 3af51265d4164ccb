"""Subscribe to depth images, raw or compressed."""

from collections.abc import Callable
from typing import Any

from sensor_msgs.msg import CompressedImage, Image

from robobrain_ros.errors import EngineConfigError
from robobrain_ros.ros.cameras.intake import Intake
from robobrain_ros.ros.cameras.streams import Stream

_COMPRESSED_SUFFIX = "/compressedDepth"


class DepthStream(Stream):
    """A subscription to a camera's depth, raw or compressed.

    :param transport: "raw": Image on <topic>. "compressed": CompressedImage on <topic>/compressedDepth. "auto": the first of
        Image on <topic>, CompressedImage on <topic> and CompressedImage on <topic>/compressedDepth that has a publisher. While
        the selected topic has no publisher, `adapt` selects again. <topic> is the name after remapping, and may itself end in
        /compressedDepth.
    """

    def __init__(
        self, intake: Intake, topic: str, listener: Callable[[Any], None], *, transport: str, reliability: str, depth: int
    ) -> None:
        remapped = intake.node.resolve_topic_name(topic)
        compressed = topic if remapped.endswith(_COMPRESSED_SUFFIX) else f"{remapped}{_COMPRESSED_SUFFIX}"
        sources: dict[str, tuple[tuple[Any, str], ...]] = {
            "raw": ((Image, topic),),
            "compressed": ((CompressedImage, compressed),),
            "auto": ((Image, topic), (CompressedImage, topic), (CompressedImage, compressed)),
        }
        self._choices = sources[transport]
        message_type, name = self._choices[0]
        super().__init__(intake, message_type, name, listener, reliability=reliability, depth=depth)

    def adapt(self) -> None:
        """See `Stream.adapt`. With transport "auto", also select the topic and type that has a publisher."""
        if len(self._choices) > 1 and not self._published(self._type, self._name):
            self._follow()
        super().adapt()

    def _follow(self) -> None:
        found = next((source for source in self._choices if self._published(*source)), None)
        if found is None:
            return
        # The old subscription is destroyed first, because a process cannot subscribe to one topic with two types.
        self.close()
        before, (self._type, self._name) = (self._type, self._name), found
        try:
            self._main = self._open(self._main.qos)
        except EngineConfigError:  # Another subscription of the node has the topic with another type.
            self._type, self._name = before
            self._main = self._open(self._main.qos)

    def _published(self, message_type: Any, topic: str) -> bool:
        name = f"sensor_msgs/msg/{message_type.__name__}"
        return any(publisher.topic_type == name for publisher in self._node.get_publishers_info_by_topic(topic))
