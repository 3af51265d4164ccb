"""Services of a lifecycle node, with a queue for bursts of requests.

The queues of rclpy's own lifecycle services hold 10 requests. These services cannot be replaced, because the state machine keeps
them until the node ends. A client that starts at the same time as the node could send its request to an unread service of rclpy.
Therefore the node is created without rclpy's services.
"""

from typing import Any

from lifecycle_msgs.msg import State, Transition, TransitionDescription
from lifecycle_msgs.srv import ChangeState, GetAvailableStates, GetAvailableTransitions, GetState
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from robobrain_ros.ros.delivery import qos

_LONGEST_NAME = 60
"""Characters of an unknown transition's name that are logged."""


class LifecycleServices:
    """The five services of the lifecycle. Impossible and unknown transitions are rejected, as in rclcpp.

    :param machine: rcl's state machine of the node.
    """

    def __init__(self, node: LifecycleNode, machine: Any) -> None:
        self._node = node
        self._machine = machine
        self._triggers = {
            "configure": node.trigger_configure,
            "cleanup": node.trigger_cleanup,
            "activate": node.trigger_activate,
            "deactivate": node.trigger_deactivate,
            "shutdown": node.trigger_shutdown,
        }
        profile = qos.service(0)
        for kind, name, callback in (
            (ChangeState, "change_state", self._change_state),
            (GetState, "get_state", self._get_state),
            (GetAvailableStates, "get_available_states", self._get_states),
            (GetAvailableTransitions, "get_available_transitions", self._get_transitions),
            (GetAvailableTransitions, "get_transition_graph", self._get_graph),
        ):
            node.create_service(kind, f"~/{name}", callback, qos_profile=profile)

    def _change_state(self, request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
        by_label, wanted = bool(request.transition.label), request.transition.label or str(request.transition.id)
        transitions = [(label, str(number)) for number, label, *_ in self._machine.available_transitions]
        for label, number in transitions:
            if wanted == (label if by_label else number):
                response.success = self._triggers[label]() == TransitionCallbackReturn.SUCCESS
                return response
        state = self._machine.current_state[1]
        allowed = ", ".join(f"{label} ({number})" for label, number in transitions) or "none"
        name = ascii(wanted)[1:-1][:_LONGEST_NAME]
        self._node.get_logger().error(f"Transition {name} rejected: the node is {state}. Transitions from this state: {allowed}.")
        response.success = False
        return response

    def _get_state(self, request: GetState.Request, response: GetState.Response) -> GetState.Response:
        response.current_state = _state(*self._machine.current_state)
        return response

    def _get_states(
        self, request: GetAvailableStates.Request, response: GetAvailableStates.Response
    ) -> GetAvailableStates.Response:
        response.available_states = [_state(*state) for state in self._machine.available_states]
        return response

    def _get_transitions(
        self, request: GetAvailableTransitions.Request, response: GetAvailableTransitions.Response
    ) -> GetAvailableTransitions.Response:
        response.available_transitions = [_description(*each) for each in self._machine.available_transitions]
        return response

    def _get_graph(
        self, request: GetAvailableTransitions.Request, response: GetAvailableTransitions.Response
    ) -> GetAvailableTransitions.Response:
        response.available_transitions = [_description(*each) for each in self._machine.transition_graph]
        return response


def _state(number: int, label: str) -> State:
    return State(id=number, label=label)


def _description(number: int, label: str, start: int, start_label: str, goal: int, goal_label: str) -> TransitionDescription:
    return TransitionDescription(
        transition=Transition(id=number, label=label),
        start_state=_state(start, start_label),
        goal_state=_state(goal, goal_label),
    )
