"""The goals of ~/watch_task in the contract test: each gets exactly one result, at its timeout at the latest."""

import math
from typing import TYPE_CHECKING, Any

from contract_node import Behaviour
from contract_options import make_options
from contract_tables import ALWAYS, CODES, NUMBERS
from rclpy.action import ActionClient
from rclpy.qos import QoSProfile

from robobrain_ros.action import WatchTask

if TYPE_CHECKING:
    from contract_client import ContractClient

_BEHAVIOURS = [Behaviour.OK, Behaviour.OK, Behaviour.SLOW, Behaviour.HANG, Behaviour.GARBAGE, Behaviour.RAISE, Behaviour.FAIL]
_OUTCOMES = {*ALWAYS, "OK", "BAD_REQUEST", "UNPARSABLE_ANSWER"}
_REJECTED = {"BAD_REQUEST", "CANCELED", "NOT_READY"}
"""Outcomes of a goal with a number out of its range: others need a comparison."""
_RANGES = {"rate": (0.001, 100.0), "success": (0.02, 1.0), "regression": (0.01, 0.949), "stall": (0.1, 2.0)}
"""Numbers other than 0 that the action's comments allow, with the defaults of the other fields."""
_SUCCEEDED = 4
"""Status of a goal that has succeeded."""


class Watches:
    """Sends goals of ~/watch_task, and checks their results."""

    def __init__(self, client: "ContractClient", node: Any, action: str, profile: QoSProfile) -> None:
        self._client = client
        self._action = ActionClient(
            node,
            WatchTask,
            action,
            goal_service_qos_profile=profile,
            result_service_qos_profile=profile,
            cancel_service_qos_profile=profile,
        )

    def send(self) -> None:
        """Send a goal with random fields, and cancel some of the goals at once."""
        client, random = self._client, self._client._random
        if not client._offered() or not self._action.server_is_ready():
            return
        behaviour = random.choice(_BEHAVIOURS)
        goal = WatchTask.Goal(task=client._text(behaviour), options=make_options(client)[0], rate=20.0)
        goal.timeout = random.choice([0.1, 0.5, 1.0, 2.0])
        wrong = ""
        if random.random() < 0.3:
            field, number = random.choice(list(_RANGES)), random.choice(NUMBERS)
            setattr(goal, field, number)
            if number and not _RANGES[field][0] <= number <= _RANGES[field][1]:
                wrong = f", {field} {number:g} out of its range"
        key = client._open(f"watch {behaviour.value} timeout {goal.timeout:g}{wrong}", goal.timeout)
        cancel = random.random() < 0.2

        def accepted(future: Any) -> None:
            if future.exception() is not None:
                return
            handle = future.result()
            if not handle.accepted:
                client._fault("watch: rejected, and so without a reason")
                client._close(key)
                return
            handle.get_result_async().add_done_callback(lambda done: self._on_result(key, done, bool(wrong)))
            if cancel:
                client._cancel(handle)

        self._action.send_goal_async(goal).add_done_callback(accepted)

    def _on_result(self, key: int, future: Any, wrong: bool) -> None:
        client = self._client
        entry = client._close(key)
        if entry is None or future.exception() is not None:
            return
        result, status = future.result().result, future.result().status
        name = CODES.get(result.outcome.code, f"code {result.outcome.code}")
        client.outcomes[f"watch {name}"] += 1
        if name not in (_REJECTED if wrong else _OUTCOMES):
            client._fault(f"{entry.what}: {name} ({result.outcome.message})")
        if (name == "OK") != (result.state != 0):
            client._fault(f"{entry.what}: {name} with state {result.state}")
        if (status == _SUCCEEDED) != (result.state == WatchTask.Result.SUCCEEDED):
            client._fault(f"{entry.what}: status {status} with state {result.state}")
        known = not math.isnan(result.final)
        if known != (result.estimates > 0) or (known and not 0.0 <= result.final <= result.peak <= 1.0):
            client._fault(f"{entry.what}: progress {result.final} of {result.peak} after {result.estimates} estimates")
