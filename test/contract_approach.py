"""The requests of ~/approach in the contract test."""

import math
from typing import TYPE_CHECKING, Any

from contract_options import make_options
from contract_tables import ALWAYS, CODES, EXPECTED, NUMBERS
from rclpy.qos import QoSProfile

from robobrain_ros.core.approach import Direction
from robobrain_ros.core.poses import Unavailable
from robobrain_ros.srv import Approach

if TYPE_CHECKING:
    from contract_client import ContractClient

_FAULTS = ["no target", "both targets", "three pixels", "pixels", "distance", "floor distance", "direction", "task"]
_BAD_NUMBERS = [number for number in NUMBERS if not 0.0 <= number <= 10.0]


class Approaches:
    """Sends requests, and checks the responses."""

    def __init__(self, client: "ContractClient", node: Any, target: str, profile: QoSProfile) -> None:
        self._client = client
        self._service = node.create_client(Approach, f"{target}/approach", qos_profile=profile)

    def send(self) -> None:
        """Send a request with an instruction, a point or a bounding box. Some are invalid."""
        client, random = self._client, self._client._random
        if not client._offered() or not self._service.service_is_ready():
            return
        behaviour = client._behaviour()
        options, valid, _, _ = make_options(client)
        request = Approach.Request(options=options, direction=random.choice(["", *(each.value for each in Direction)]))
        request.floor_distance = random.choice([0.0, 0.0, 0.5])
        by_pixels = random.random() < 0.6
        if by_pixels:
            request.pixels = [float(random.randrange(-5, size + 5)) for size in random.choice([(64, 48), (64, 48, 64, 48)])]
        else:
            request.instruction = client._text(behaviour)
            request.task = random.choice(["", "ground", "point", "affordance"])
        fault = random.choice(_FAULTS) if random.random() < 0.15 else ""
        self._spoil(request, fault)
        what = f"approach {'by pixels' if by_pixels else behaviour.value} {fault} timeout {options.timeout:g}"
        key = client._open(what, client._limit(options))
        if fault or not valid or options.images:
            expected = {"BAD_REQUEST", "NOT_READY", "ENGINE_FAILED"}
        elif by_pixels:
            expected = ALWAYS | {"OK", "NO_POSE"}
        else:
            found = {"NO_POSE"} if "OK" in EXPECTED[behaviour] else set()
            expected = EXPECTED[behaviour] | ALWAYS | found
        self._service.call_async(request).add_done_callback(lambda done: self._on_response(key, request, done, expected))

    def _spoil(self, request: Approach.Request, fault: str) -> None:
        random = self._client._random
        if fault == "no target":
            request.instruction, request.pixels = "", []
        elif fault == "both targets":
            request.instruction, request.pixels = "the mug", [1.0, 2.0]
        elif fault == "three pixels":
            request.instruction, request.pixels = "", [1.0, 2.0, 3.0]
        elif fault == "pixels":
            request.instruction, request.pixels = "", [1.0, random.choice([math.nan, math.inf, -math.inf])]
        elif fault == "distance":
            request.distance = random.choice(_BAD_NUMBERS)
        elif fault == "floor distance":
            request.floor_distance = random.choice([math.nan, -1.0, math.inf, 1e12])
        elif fault == "direction":
            request.direction = random.choice(["left", "x" * 3_000])
        elif fault == "task":
            request.task = random.choice(["plan", "nonsense"])

    def _on_response(self, key: int, request: Approach.Request, future: Any, expected: set[str]) -> None:
        client = self._client
        entry = client._close(key, future)
        if entry is None or future.exception() is not None:
            return
        response = future.result()
        found, pose = response.approach, response.approach.pose.pose
        name = CODES.get(response.outcome.code, f"code {response.outcome.code}")
        client.outcomes[f"approach {name}"] += 1
        numbers = (pose.position.x, pose.position.y, pose.position.z, pose.orientation.w)
        if name not in expected:
            client._fault(f"{entry.what}: {name} ({response.outcome.message}); expected {sorted(expected)}")
        if name != "OK" and not response.outcome.message:
            client._fault(f"{entry.what}: {name} without a sentence")
        if not all(map(math.isfinite, numbers) if name == "OK" else map(math.isnan, numbers)):
            client._fault(f"{entry.what}: {name} with the pose {pose}")
        if (found.reason in Unavailable.__members__) != (name == "NO_POSE"):
            client._fault(f"{entry.what}: {name} with the reason {found.reason!r}")
        if not found.graspable and not (math.isnan(found.opening) and math.isnan(found.finger_depth)):
            client._fault(f"{entry.what}: an opening of {found.opening} m without a grasp")
        if name == "OK" and request.direction not in ("", Direction.AUTOMATIC.value, found.direction):
            client._fault(f"{entry.what}: from {found.direction}, requested was {request.direction}")
        if name == "OK":
            self._check_place(entry.what, response, pose)

    def _check_place(self, what: str, response: Approach.Response, pose: Any) -> None:
        """Check that the pose is on the surface of the image that the response names."""
        shown = self._client._shown(response.affordances)
        if shown is None:
            self._client._fault(f"{what}: the stamp {response.affordances.header.stamp} is that of no image")
        elif not shown.depth_mm or abs(pose.position.z - shown.depth_mm / 1000.0) > 0.01:
            self._client._fault(f"{what}: a pose at {pose.position.z} m where the depth is {shown.depth_mm} mm")
