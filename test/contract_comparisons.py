"""The requests of ~/estimate_progress in the contract test, and the messages of ~/progress."""

import math
from typing import TYPE_CHECKING, Any

from contract_node import Behaviour
from contract_options import own_image
from contract_tables import ALWAYS, CODES, EXPECTED
from rclpy.qos import QoSProfile

from robobrain_ros.msg import Progress, QueryOptions
from robobrain_ros.srv import EstimateProgress

if TYPE_CHECKING:
    from contract_client import ContractClient

_FAULTS = ["no start", "no views", "another number of views", "images", "history", "no text"]


class Comparisons:
    """Sends requests, and checks the responses."""

    def __init__(self, client: "ContractClient", node: Any, target: str, profile: QoSProfile) -> None:
        self._client = client
        self._service = node.create_client(EstimateProgress, f"{target}/estimate_progress", qos_profile=profile)
        node.create_subscription(Progress, f"{target}/progress", self._on_progress, 100)

    def send(self) -> None:
        """Send a request with one to three views of a moment, on given images or on the cameras' newest ones."""
        client, random = self._client, self._client._random
        if not client._offered() or not self._service.service_is_ready():
            return
        behaviour = client._behaviour()
        views = random.choice([1, 2, 3])
        options = QueryOptions(timeout=random.choice([0.0, 0.3, 1.0, 2.0]))
        request = EstimateProgress.Request(task=client._text(behaviour), options=options)
        request.reference_start, request.reference_end = own_image(client)[0], own_image(client)[0]
        request.before = [own_image(client)[0] for _ in range(views)]
        if views < 3 and random.random() < 0.5:
            options.cameras = ["camera", "deep"][:views]
        else:
            request.after = [own_image(client)[0] for _ in range(views)]
        fault = random.choice(_FAULTS) if random.random() < 0.2 else ""
        self._spoil(request, fault)
        key = client._open(f"comparison {behaviour.value} {fault} timeout {options.timeout:g}", client._limit(options))
        expected = {"BAD_REQUEST", "NOT_READY", "ENGINE_FAILED"} if fault else EXPECTED[behaviour] | ALWAYS
        if behaviour is Behaviour.NOTHING:
            expected = expected | {"UNPARSABLE_ANSWER"}
        if options.cameras:  # A camera without a usable image is also a reason, and the node may find it first.
            expected = expected | {"NO_IMAGE", "STALE_IMAGE", "BAD_IMAGE"}
        self._service.call_async(request).add_done_callback(lambda done: self._on_response(key, done, expected))

    def _spoil(self, request: EstimateProgress.Request, fault: str) -> None:
        image = own_image(self._client)[0]
        if fault == "no start":
            request.reference_start.data = []
        elif fault == "no views":
            request.before = []
        elif fault == "another number of views":
            request.after = [image] * (len(request.before) + 1)
        elif fault == "images":
            request.options.images = [image]
        elif fault == "history":
            request.options.history_seconds, request.options.history_frames = 1.0, 2
        elif fault == "no text":
            request.task = " "

    def _on_response(self, key: int, future: Any, expected: set[str]) -> None:
        client = self._client
        entry = client._close(key, future)
        if entry is None or future.exception() is not None:
            return
        response = future.result()
        name = CODES.get(response.outcome.code, f"code {response.outcome.code}")
        client.outcomes[f"comparison {name}"] += 1
        if name not in expected:
            client._fault(f"{entry.what}: {name} ({response.outcome.message}); expected {sorted(expected)}")
        if (name == "OK") == math.isnan(response.progress.change):
            client._fault(f"{entry.what}: {name} with the change {response.progress.change}")
        if not math.isnan(response.progress.progress):
            client._fault(f"{entry.what}: a comparison of two moments knows the progress {response.progress.progress}")

    def _on_progress(self, message: Progress) -> None:
        """Check the bounds of an estimate, and that its header names an image that was shown."""
        parts = (message.progress, message.uncertainty, message.incremental, message.forward, message.backward)
        if not all(math.isnan(part) or 0.0 <= part <= 1.0 for part in parts) or abs(message.change) > 1.0:
            self._client._fault(f"~/progress: an estimate out of its bounds: {message}")
        if message.camera and not self._client._epoch and self._client._shown(message) is None:
            self._client._fault(f"~/progress: the stamp {message.header.stamp} is that of no image of {message.camera}")
