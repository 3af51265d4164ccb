"""Handle exceptions in all callbacks of rclpy. They become a response and a log line, and do not end the node.

Without this module, an exception in a callback propagates out of ``spin``, and the client receives no response.
"""

import functools
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from traceback import extract_tb, format_exc, format_exception
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.exceptions import InvalidHandle
from rclpy.guard_condition import GuardCondition
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode
from rclpy.publisher import Publisher
from rclpy.service import Service
from rclpy.subscription import Subscription
from rclpy.task import Task
from rclpy.timer import Timer

from robobrain_ros.bounds.texts import clean
from robobrain_ros.errors import OutcomeCode
from robobrain_ros.ros.delivery.lifecycle_services import LifecycleServices
from robobrain_ros.ros.delivery.names import check_service, check_topic
from robobrain_ros.ros.delivery.pacing import Pacing
from robobrain_ros.ros.delivery.redelivery import Redelivery
from robobrain_ros.ros.messages.unknown import unknown

_LOG_INTERVAL = 1.0
"""Each place logs at most one fault in this number of seconds. All faults are counted."""
_LONGEST = 500
"""Characters of an exception's message that are reported."""

Fallback = Callable[[Any, Any, str], Any]
"""Creates a response from the request, the response without an answer (see `unknown`), and the sentence about the exception."""


@dataclass
class Faults:
    """Exceptions of callbacks since the start of the node. ``last`` is the sentence about the last one."""

    count: int = 0
    last: str = ""
    lost_responses: int = 0
    """Number of responses that could not be sent, because their clients were unreachable."""
    _logged: dict[str, float] = field(default_factory=dict)

    def note(self, where: str, error: BaseException) -> tuple[str, bool]:
        """Count an exception. Return the sentence about it, and whether to log the sentence now."""
        self.count += 1
        self.last = describe(where, error)
        now = time.monotonic()
        due = now - self._logged.get(where, -_LOG_INTERVAL) >= _LOG_INTERVAL
        if due:
            self._logged[where] = now
        return self.last, due


def describe(where: str, error: BaseException) -> str:
    """Return one line about an exception: its type, message and place."""
    frames = extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    words = clean(" ".join(str(error).split())[:_LONGEST])
    return f"{where} failed: {type(error).__name__}: {words}{place}"


class GuardedNode(LifecycleNode):
    """A lifecycle node that survives exceptions in callbacks. Services still send a response.

    ``faults`` counts the exceptions. ``pacing`` limits the rate of responses. ``redelivery`` sends a response again if DDS did
    not know its client. The node guards services, timers, subscriptions, guard conditions, parameter callbacks and the tasks of
    `start_task`, including those that rclpy creates.
    """

    def __init__(self, name: str, **options: Any) -> None:
        self.faults = Faults()
        self.pacing = Pacing(self)
        self.redelivery = Redelivery(self)
        self._tasks: set[Task] = set()
        super().__init__(name, enable_communication_interface=False, **options)
        LifecycleServices(self, self._state_machine)
        # rclpy creates these services without calling create_service.
        for service in self.services:
            if not hasattr(service.callback, "guarded"):
                self._guard_service(service)

    def fault(self, where: str, error: BaseException) -> str:
        """Count and log an exception that was caught. Return the sentence about it."""
        sentence, due = self.faults.note(where, error)
        if due:
            self.get_logger().error(f"{sentence}. The node continues. Please report it with the log.")
            self.get_logger().debug(clean("".join(format_exception(error))))
        return sentence

    def log_traceback(self, sentence: str) -> None:
        """Log the exception that is being handled, with its traceback. ``sentence`` has no full stop."""
        self.get_logger().error(clean(f"{sentence}:\n{format_exc()}"))

    @property
    def unsent(self) -> int:
        """Responses that wait for their turn, or for a client that DDS does not know yet."""
        return self.pacing.waiting + self.redelivery.waiting

    @contextmanager
    def all_or_no_publishers(self) -> Iterator[None]:
        """Destroy the publishers that were created within the block if it raises."""
        before = set(self.publishers)
        try:
            yield
        except BaseException:
            for publisher in set(self.publishers) - before:
                self.destroy_publisher(publisher)
            raise

    def guard(
        self, where: str, callback: Callable[..., Any], instead: Callable[[str], Any] = lambda sentence: None
    ) -> Callable[..., Any]:
        """Return a callback that never raises.

        :param instead: returns the result after an exception. Its argument is the sentence about the exception.
        """
        return _caught(callback, lambda error, *_: instead(self.fault(where, error)))

    def deliver(self, where: str, send: Callable[[], None], *, failed: bool = False) -> None:
        """Send a response. If DDS does not know its client yet, keep the response and send it later; see `Redelivery`.

        :param where: the service or action: the subject of a sentence in the log.
        :param failed: whether a first attempt has failed already.
        """

        def sent() -> bool:
            try:
                send()
            except rclpy_implementation.RCLError:
                return False
            except InvalidHandle:  # The service or action was destroyed meanwhile.
                lost()
            return True

        def lost() -> None:
            self.faults.lost_responses += 1
            self.get_logger().warning(
                f"{where} could not send a response, because its client is unreachable.", throttle_duration_sec=_LOG_INTERVAL
            )

        if failed or not sent():
            self.redelivery.keep(sent, lost)

    def start_task(self, callback: Callable[..., Any], *arguments: Any) -> None:
        """Call a function, or await a coroutine function, in the executor. Without an executor, do nothing."""
        executor = self.executor
        if executor is not None:
            task = executor.create_task(self.guard(f"The task {_name(callback)}", callback), *arguments)
            # A done callback of the task would need another round of the executor, so ended tasks are removed here.
            self._tasks -= {ended for ended in self._tasks.copy() if ended.done()}
            self._tasks.add(task)

    def destroy_node(self) -> None:
        """See `rclpy.node.Node`. Also cancels unfinished tasks. Call it after the executor has stopped spinning."""
        for task in list(self._tasks):
            task.cancel()
        self._tasks.clear()
        super().destroy_node()
        self._leave_the_graph()

    def _leave_the_graph(self) -> None:
        """Destroy rcl's state machine, which rclpy does not destroy.

        It holds the DDS participant. Otherwise, other nodes would see this node for another 20 s, and DDS's shared memory would
        remain after the end of the process.
        """
        machine = getattr(self, "_state_machine", None)
        if machine is not None:
            machine.destroy_when_not_in_use()

    # Methods of `rclpy.node.Node`, with guarded callbacks.

    def create_service(self, srv_type: Any, srv_name: str, callback: Callable[..., Any], **options: Any) -> Service:
        """See `rclpy.node.Node`. If the callback raises, the response contains a failed outcome or result.

        :raises EngineConfigError: see `check_service`.
        """
        check_service(self, srv_name)
        service = super().create_service(srv_type, srv_name, callback, **options)
        self._guard_service(service)
        return service

    def create_timer(self, timer_period_sec: float, callback: Callable[..., Any], *arguments: Any, **options: Any) -> Timer:
        """See `rclpy.node.Node`."""
        guarded = self.guard(f"The timer {_name(callback)}", callback)
        return super().create_timer(timer_period_sec, guarded, *arguments, **options)

    def create_guard_condition(self, callback: Callable[..., Any], *arguments: Any, **options: Any) -> GuardCondition:
        """See `rclpy.node.Node`."""
        guarded = self.guard(f"The guard condition {_name(callback)}", callback)
        return super().create_guard_condition(guarded, *arguments, **options)

    def create_subscription(
        self, msg_type: Any, topic: str, callback: Callable[..., Any], *arguments: Any, **options: Any
    ) -> Subscription:
        """See `rclpy.node.Node`. Disables rclpy's warnings about incompatible publishers, because `Stream` reports them.

        With these warnings, the executor would wait for two events of each subscription. This is slow with cameras.

        :raises EngineConfigError: see `check_topic`.
        """
        check_topic(self, topic, msg_type)
        options.setdefault("event_callbacks", SubscriptionEventCallbacks(use_default_callbacks=False))
        guarded = self.guard(f"The subscription to {topic}", callback)
        return super().create_subscription(msg_type, topic, guarded, *arguments, **options)

    def create_publisher(self, msg_type: Any, topic: str, *arguments: Any, **options: Any) -> Publisher:
        """See `rclpy.node.Node`. Disables rclpy's warnings about incompatible subscribers; see `create_subscription`.

        :raises EngineConfigError: see `check_topic`.
        """
        check_topic(self, topic, msg_type)
        options.setdefault("event_callbacks", PublisherEventCallbacks(use_default_callbacks=False))
        return super().create_publisher(msg_type, topic, *arguments, **options)

    def add_on_set_parameters_callback(self, callback: Callable[..., Any]) -> None:
        """See `rclpy.node.Node`. A callback that raises rejects the change."""
        guarded = self.guard(
            "The check of a parameter", callback, lambda sentence: SetParametersResult(successful=False, reason=sentence)
        )
        super().add_on_set_parameters_callback(guarded)

    def _guard_service(self, service: Service) -> None:
        """Make a service send a response even if its callback raises, and survive clients that have left."""
        where, callback, send = f"The service {service.srv_name}", service.callback, service.send_response
        failed = _FALLBACKS.get(service.srv_type, failed_response)

        if service.srv_type is SetParameters:
            callback = functools.partial(self._set_each, callback)

        def instead(error: Exception, request: Any, response: Any) -> Any:
            return failed(request, unknown(service.srv_type.Response), self.fault(where, error))

        def guarded_send(response: Any, header: Any) -> None:
            try:
                self.deliver(where, lambda: send(response, header))
            except Exception as error:  # The response contains a value that its message type does not support.
                response = failed(None, unknown(service.srv_type.Response), self.fault(where, error))
                self.deliver(where, lambda: send(response, header))

        service.callback = _caught(callback, instead)
        service.send_response = lambda response, header: self.pacing.respond(
            service.srv_name, lambda: guarded_send(response, header)
        )

    def _set_each(
        self, setting: Callable[..., Any], request: SetParameters.Request, response: SetParameters.Response
    ) -> SetParameters.Response:
        """Set parameters as rclpy does, but one by one, so that an exception affects only one result."""
        for parameter in request.parameters:
            one = self.guard("Setting a parameter", setting, _rejected)
            response.results += one(SetParameters.Request(parameters=[parameter]), SetParameters.Response()).results
        return response


def _caught(callback: Callable[..., Any], instead: Callable[..., Any]) -> Callable[..., Any]:
    """Return a callback that returns ``instead(exception, *arguments)`` after an exception. Also accepts coroutine functions."""

    @functools.wraps(callback)
    async def awaiting(*arguments: Any, **options: Any) -> Any:
        try:
            return await callback(*arguments, **options)
        except Exception as error:
            return instead(error, *arguments)

    @functools.wraps(callback)
    def calling(*arguments: Any, **options: Any) -> Any:
        try:
            return callback(*arguments, **options)
        except Exception as error:
            return instead(error, *arguments)

    guarded: Any = awaiting if inspect.iscoroutinefunction(callback) else calling
    guarded.guarded = True
    return guarded


def _name(callback: Callable[..., Any]) -> str:
    return str(getattr(callback, "__qualname__", None) or getattr(callback, "func", callback))


def failed_response(request: Any, response: Any, sentence: str) -> Any:
    """Return a response with outcome ENGINE_FAILED if its type has an outcome; otherwise the response unchanged."""
    if hasattr(response, "outcome"):
        response.outcome.code = int(OutcomeCode.ENGINE_FAILED)
        response.outcome.message = sentence
    return response


def _rejected(sentence: str) -> SetParameters.Response:
    return SetParameters.Response(results=[SetParametersResult(successful=False, reason=sentence)])


def _failed_parameters(request: SetParameters.Request | None, response: SetParameters.Response, sentence: str) -> Any:
    results = [SetParametersResult(successful=False, reason=sentence) for _ in (request.parameters if request else ())]
    response.results = results
    return response


def _failed_atomically(request: Any, response: SetParametersAtomically.Response, sentence: str) -> Any:
    response.result = SetParametersResult(successful=False, reason=sentence)
    return response


_FALLBACKS: dict[Any, Fallback] = {SetParameters: _failed_parameters, SetParametersAtomically: _failed_atomically}
