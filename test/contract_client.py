"""A client of the contract test. It performs random actions, keeps a ledger of its requests, and checks the responses."""

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from contract_approach import Approaches
from contract_comparisons import Comparisons
from contract_events import EventCheck, make_condition
from contract_node import Behaviour
from contract_options import UNCHECKED, make_options
from contract_tables import (
    ALWAYS,
    CODES,
    DEFAULT_TIMEOUT,
    EXPECTED,
    MOST_OPEN,
    NUMBERS,
    RESULT_TOPICS,
    TASKS,
    TEXTS,
    TRANSITIONS,
    number_in_answer,
    parts_of,
)
from contract_watch import Watches
from contract_world import MAX_IMAGE_AGE, ContractWorld, Entry, Shown
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy

from robobrain_ros.action import RunTask
from robobrain_ros.msg import QueryOptions
from robobrain_ros.srv import Ask, SetStandingQuery

_BACK = {"unconfigured": Transition.TRANSITION_CONFIGURE, "inactive": Transition.TRANSITION_ACTIVATE}
"""The transition on the way to the state active."""


class ContractClient(ContractWorld):
    """The client. `act` performs one random action. `faults` lists the broken promises."""

    def __init__(
        self, namespace: str, seed: int, context: Any, *, node_pid: int, sim_time: bool, unexpected: Counter[str]
    ) -> None:
        super().__init__(namespace, seed, context, node_pid=node_pid, sim_time=sim_time)
        self.outcomes: Counter[str] = Counter()
        self.diagnostics: dict[str, dict[str, str]] = {}
        self.unexpected = unexpected
        self._target = f"{namespace}/robobrain"
        self.state = "active"
        self.changing = False
        """Whether a transition is in progress."""
        self._goals: list[Any] = []
        self._last_of_query: dict[str, tuple[int, int]] = {}
        self._make_endpoints()

    def _make_endpoints(self) -> None:
        offer = self._node.create_client
        many = QoSProfile(depth=1_000, reliability=ReliabilityPolicy.RELIABLE)
        self._services = {name: offer(kind, f"{self._target}/{name}", qos_profile=many) for name, (kind, _, _) in TASKS.items()}
        self._standing = self._node.create_client(SetStandingQuery, f"{self._target}/set_standing_query", qos_profile=many)
        self._change = self._node.create_client(ChangeState, f"{self._target}/change_state")
        self._get_state = self._node.create_client(GetState, f"{self._target}/get_state")
        self._set = self._node.create_client(SetParameters, f"{self._target}/set_parameters", qos_profile=many)
        profiles: Any = {f"{service}_service_qos_profile": many for service in ("goal", "result", "cancel")}
        self._action = ActionClient(self._node, RunTask, f"{self._target}/run_task", **profiles)
        self._comparisons = Comparisons(self, self._node, self._target, many)
        self._approaches = Approaches(self, self._node, self._target, many)
        self._watches = Watches(self, self._node, f"{self._target}/watch_task", many)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.events = EventCheck(self._node, self._target, self._fault)
        for topic, message_type in RESULT_TOPICS.items():
            self._node.create_subscription(message_type, f"{self._target}/{topic}", self._on_standing_result, 100)

    # A random action.

    def jump_clock(self) -> None:
        """See `ContractWorld.jump_clock`. After a jump, answers of standing queries may be older."""
        self._last_of_query.clear()
        super().jump_clock()

    def act(self) -> None:
        """Perform a random action."""
        self.step += 1
        actions: list[tuple[Callable[[], None], float]] = [
            (self._ask_service, 40.0),
            (self._send_goal, 16.0),
            (self._cancel_goal, 5.0),
            (self._watches.send, 3.0),
            (self._comparisons.send, 3.0),
            (self._approaches.send, 5.0),
            (self._burst, 1.5),
            (self._leave, 0.5),
            (self._set_standing_query, 6.0),
            (self._set_parameter, 6.0),
            (self._transition, 2.0),
            (self._recover, 2.0),
            (self._camera_fault, 5.0),
            (self._spin_on, 15.0),
        ]
        if self.sim_time:
            actions.append((self.jump_clock, 1.0))
        functions, weights = zip(*actions, strict=True)
        self._random.choices(functions, weights)[0]()
        self.tick()
        self.spin()
        self.until(lambda: len(self.ledger) < MOST_OPEN or self.overdue(), 10.0, showing=True)
        for entry in self.overdue():
            self._fault(f"{entry.what} (sent at step {entry.step}) has no response after {time.monotonic() - entry.sent:.1f} s")
        if self.overdue():
            self.ledger = {key: entry for key, entry in self.ledger.items() if entry not in self.overdue()}

    def _spin_on(self) -> None:
        self.spin(self._random.choice([0.0, 0.01, 0.05, 0.2]))

    def _behaviour(self) -> Behaviour:
        weights: dict[Behaviour, float] = {Behaviour.OK: 60, Behaviour.SLOW: 8, Behaviour.HANG: 6, Behaviour.STUBBORN: 2}
        weights |= {Behaviour.RAISE: 4, Behaviour.FAIL: 3, Behaviour.DIE: 0.4, Behaviour.GARBAGE: 4, Behaviour.NOTHING: 4}
        weights |= {Behaviour.EMPTY: 3, Behaviour.FLOOD: 1, Behaviour.BLOCK: 1}
        return self._random.choices(list(weights), list(weights.values()))[0]

    def _limit(self, options: QueryOptions) -> float:
        timeout = float(options.timeout)
        return timeout if math.isfinite(timeout) and timeout > 0.0 else DEFAULT_TIMEOUT

    def _text(self, behaviour: Behaviour) -> str:
        return f"the mug {behaviour.value} now"

    def _ask_service(self) -> None:
        task = self._random.choice(list(TASKS))
        kind, text_field, _ = TASKS[task]
        client = self._services[task]
        if not self._offered() or not client.service_is_ready():
            return
        behaviour = self._behaviour()
        options, valid, readable, number = make_options(self, task)
        request = kind.Request(options=options)
        text = self._text(behaviour)
        odd_text = self._random.random() < 0.05
        if odd_text:
            text, behaviour = self._random.choice(TEXTS), Behaviour.OK
        setattr(request, text_field, text)
        of_history = f" history {options.history_frames}" if options.history_frames else ""
        key = self._open(f"{task} {behaviour.value}{of_history} timeout {options.timeout:g}", self._limit(options))
        expected = self._codes(task, behaviour, valid, readable, odd_text)
        future = client.call_async(request)
        future.add_done_callback(lambda done: self._on_response(key, task, done, expected, number))

    def _codes(self, task: str, behaviour: Behaviour, valid: bool, readable: bool, odd_text: bool) -> set[str]:
        """Return the outcomes that are allowed for a request."""
        if not valid:
            return {"BAD_REQUEST", "NOT_READY", "ENGINE_FAILED"}
        if not readable:
            return ALWAYS | {"BAD_REQUEST"} if odd_text else ALWAYS
        expected = EXPECTED[behaviour] | ALWAYS
        if task in ("ask", "plan") and behaviour in (Behaviour.GARBAGE, Behaviour.NOTHING, Behaviour.EMPTY):
            expected = expected | {"OK", "UNPARSABLE_ANSWER", "NOTHING_FOUND"}
        return expected | {"OK", "BAD_REQUEST", "INFEASIBLE_PLAN"} if odd_text else expected

    def _on_response(self, key: int, task: str, future: Any, expected: set[str], number: int | None) -> None:
        entry = self._close(key, future)
        if entry is not None and future.exception() is None:
            self._check(entry, task, future.result(), expected, number)

    def _check(self, entry: Entry, task: str, response: Any, expected: set[str], number: int | None) -> None:
        name = CODES.get(response.outcome.code, f"code {response.outcome.code}")
        self.outcomes[name] += 1
        if name not in expected:
            self._fault(f"{entry.what}: {name} ({response.outcome.message}); expected {sorted(expected)}")
        if name != "OK" and not response.outcome.message:
            self._fault(f"{entry.what}: {name} without a sentence")
        result = getattr(response, TASKS[task][2])
        parts = parts_of(task, result)
        if name != "OK" and parts:
            self._fault(f"{entry.what}: {name} with {len(parts)} parts")
        if name == "OK":
            self._check_image(entry, task, result, number)

    def _check_image(self, entry: Entry, task: str, result: Any, number: int | None) -> None:
        """Check that an answer is about the image that its header names, and that this image was fresh."""
        answered = None if number == UNCHECKED else number_in_answer(task, result)
        if number is not None and number != UNCHECKED:
            if answered is not None and answered != number:
                self._fault(f"{entry.what}: about image {answered}, sent was {number}")
            return
        shown = self._shown(result)
        if shown is None:
            self._fault(f"{entry.what}: the header's stamp {result.header.stamp} is that of no image")
            return
        if answered is not None and answered != shown.number:
            self._fault(f"{entry.what}: the answer is about image {answered}, its header names image {shown.number}")
        stamps = [self._frames.get((result.camera, stamp.sec, stamp.nanosec)) for stamp in result.report.stamps]
        if number == UNCHECKED and "history" in entry.what and (None in stamps or stamps[-1] is not shown):
            self._fault(f"{entry.what}: report.stamps are {result.report.stamps}, which are not the images up to the header's")
        age = entry.clock - shown.published
        settled = entry.sent - self._jumped > 1.0  # The node has noticed a jump of the clock by now.
        if settled and age > MAX_IMAGE_AGE + 0.5 + self.stalls.total - entry.stalls:
            self._fault(f"{entry.what}: the image was published {age:.2f} s before the request")
        if shown.stale:
            self._fault(f"{entry.what}: the image's stamp was stale when it was published")
        if settled and shown.epoch < self._epoch:
            self._fault(f"{entry.what}: the image is from before the clock's last jump")
        if result.report.image_age < -0.1 and not self.sim_time:
            self._fault(f"{entry.what}: image_age is {result.report.image_age:.2f} s")
        self._check_positions(entry, task, result, shown)

    def _shown(self, result: Any) -> Shown | None:
        """Return the frame that a result names."""
        stamp = result.header.stamp
        return self._frames.get((result.camera, stamp.sec, stamp.nanosec))

    def _check_positions(self, entry: Entry, task: str, result: Any, shown: Shown) -> None:
        for part in parts_of(task, result) if task in ("point", "affordance", "ground", "trajectory") else ():
            z = part.position.z
            depths = [shown.depth_mm] if shown.depth_mm else self.depths_near(result.header.stamp)
            if not math.isnan(z) and (result.camera != "deep" or all(abs(z - depth / 1000.0) > 0.002 for depth in depths)):
                self._fault(f"{entry.what}: a position at {z} m; the depth is {depths} mm")

    def _burst(self) -> None:
        for _ in range(self._random.choice([5, 20, 40])):
            self._ask_service()

    # The action.

    def _send_goal(self) -> None:
        if not self._offered() or not self._action.server_is_ready():
            return
        task = self._random.choice([*TASKS, "nonsense"])
        behaviour = self._behaviour()
        options, valid, readable, number = make_options(self, task)
        valid = valid and task != "nonsense"
        goal = RunTask.Goal(task=task, instruction=self._text(behaviour), options=options)
        limit = self._limit(options)
        key = self._open(f"goal {task} {behaviour.value} timeout {options.timeout:g}", limit)
        expected = self._codes(task, behaviour, valid, readable, False)
        cancel_at_once = self._random.random() < 0.1

        def accepted(future: Any) -> None:
            if future.exception() is not None:
                return
            handle = future.result()
            if not handle.accepted:
                self._fault(f"goal {task}: rejected, and so without a reason")
                self._close(key)
                return
            handle.get_result_async().add_done_callback(lambda done: self._on_goal(key, task, done, expected, number))
            self._goals.append(handle)
            if cancel_at_once:
                self._cancel(handle)

        self._action.send_goal_async(goal).add_done_callback(accepted)

    def _on_goal(self, key: int, task: str, future: Any, expected: set[str], number: int | None) -> None:
        entry = self._close(key)
        if entry is None or future.exception() is not None:
            return
        wrapped = future.result()
        name = CODES.get(wrapped.result.outcome.code, f"code {wrapped.result.outcome.code}")
        if (wrapped.status == 4) != (name == "OK"):
            self._fault(f"{entry.what}: status {wrapped.status} with {name}")
        if task in TASKS:
            self._check(entry, task, wrapped.result, expected, number)
        elif name not in expected:
            self._fault(f"{entry.what}: {name}")

    def _cancel_goal(self) -> None:
        if self._goals and self._offered():
            self._cancel(self._goals.pop(self._random.randrange(len(self._goals))))
        del self._goals[:-20]

    def _cancel(self, handle: Any) -> None:
        key = self._open("cancel", 1.0)
        handle.cancel_goal_async().add_done_callback(lambda done: self._close(key))

    def _leave(self) -> None:
        """Send a request from a client that leaves without waiting for the response."""
        if not self._offered():
            return
        client = self._node.create_client(Ask, f"{self._target}/ask")
        if client.service_is_ready():
            client.call_async(Ask.Request(question=self._text(Behaviour.SLOW)))
        self._node.destroy_client(client)

    # Standing queries, parameters, transitions, cameras.

    def _set_standing_query(self) -> None:
        rate = self._random.choice(NUMBERS)
        task = self._random.choice([*TASKS, "nonsense"])
        name = self._random.choice(["a", "b", "c", "", "x" * 3_000])
        enabled = self._random.random() < 0.6
        behaviour = self._random.choice([Behaviour.OK, Behaviour.OK, Behaviour.SLOW, Behaviour.GARBAGE, Behaviour.RAISE])
        request = SetStandingQuery.Request(
            name=name,
            enabled=enabled,
            task=task,
            instruction=self._text(behaviour),
            rate=rate,
            options=make_options(self, task)[0],
        )
        make_condition(request, self._random)
        key = self._open(f"standing query {name[:5]!r} rate {rate:g} {'on' if enabled else 'off'}", DEFAULT_TIMEOUT)

        def answered(future: Any) -> None:
            self._close(key, future)
            code = CODES.get(future.result().outcome.code, f"code {future.result().outcome.code}")
            self.outcomes[f"standing {code}"] += 1
            if code not in ("OK", "BAD_REQUEST"):
                self._fault(f"standing query: {code} ({future.result().outcome.message})")
            bad = not math.isfinite(rate) or rate < 0.0
            if enabled and bad and code == "OK":
                self._fault(f"a standing query of rate {rate} was set")

        self._standing.call_async(request).add_done_callback(answered)

    def clear_standing_queries(self) -> None:
        """Remove every standing query that `act` may have set."""
        for name in ("a", "b", "c"):
            self._standing.call_async(SetStandingQuery.Request(name=name, enabled=False))

    def _on_standing_result(self, message: Any) -> None:
        """Check that a query is sent only once for each image, and that its answers have the order of the images."""
        if not message.query or self._epoch:
            return
        shown = self._shown(message)
        if shown is None:
            self._fault(f"standing query {message.query}: a stamp of no image")
            return
        key = (message.header.stamp.sec, message.header.stamp.nanosec)
        query = f"{message.query} {type(message).__name__} {message.camera}"
        if self._last_of_query.get(query) == key:
            self._fault(f"standing query {message.query}: asked twice about one image")
        self._last_of_query[query] = key

    def _set_parameter(self) -> None:
        name = self._random.choice(
            ["request_timeout", "max_tokens", "think", "think_tokens", "sync_tolerance", "max_plan_steps", "no.such", "autostart"]
        )
        value: Any = self._random.choice([True, False, 0, -1, 1, 64, 2**62, "x", *NUMBERS])
        if name == "request_timeout" and isinstance(value, int | float) and value > DEFAULT_TIMEOUT:
            value = type(value)(DEFAULT_TIMEOUT)
        key = self._open(f"parameter {name} = {value!r}", DEFAULT_TIMEOUT)
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])

        def answered(future: Any) -> None:
            self._close(key, future)
            result = future.result().results[0]
            if result.successful and name == "sync_tolerance":
                self.largest_tolerance = max(self.largest_tolerance, float(value))
            if not result.successful and not result.reason:
                self._fault(f"parameter {name} = {value!r}: refused without a reason")

        self._set.call_async(request).add_done_callback(answered)

    def _offered(self) -> bool:
        """Return whether the node offers services and action, and does not remove them soon."""
        return self.state in ("active", "inactive") and not self.changing

    def _transition(self) -> None:
        """Request a transition. Most are on the way back to the state active. Otherwise, the transition is random."""
        if self.changing:
            return
        allowed = TRANSITIONS[self.state]
        chosen = self._random.choice([1, 2, 3, 4, 0, 9, 60, 77, 255])
        if self.state != "active" and self._random.random() < 0.8:
            chosen = _BACK[self.state]
        if chosen == Transition.TRANSITION_CLEANUP and self.state == "inactive":
            # If the service is removed while a request is sent to it, no node answers this request.
            self.until(lambda: not self.ledger or self.overdue(), 10.0, showing=True)
        self.change(chosen, allowed.get(chosen))

    def _recover(self) -> None:
        """Wait until the node works again, so that the pauses before engine starts do not use up the actions."""
        self.heal()
        if self.state != "active":
            chosen = _BACK[self.state]
            self.change(chosen, TRANSITIONS[self.state][chosen])
        self.until(lambda: self.ready() or self.overdue(), 10.0, showing=True)

    def change(self, transition: int, expected: str | None) -> None:
        """Request a transition that leads to a state, or that must be rejected (None)."""
        if self.changing:
            return
        self.changing = True
        key = self._open(f"transition {transition} from {self.state}", DEFAULT_TIMEOUT)

        def answered(future: Any) -> None:
            self.changing = False
            self._close(key, future)
            success = bool(future.result().success)
            if success != (expected is not None):
                self._fault(f"transition {transition} from {self.state}: success is {success}")
            if success and expected is not None:
                self.state = expected

        self._change.call_async(ChangeState.Request(transition=Transition(id=transition))).add_done_callback(answered)

    def _camera_fault(self) -> None:
        camera = self._random.choice(self._cameras)
        what = self._random.choice(["on", "on", "off", "late", "ahead", "unstamped", "broken", "depth"])
        self._note(f"{camera.name} {what}")
        camera.on = what != "off"
        camera.broken = what == "broken"
        camera.stamp_offset = {"late": -100.0, "ahead": 100.0}.get(what, 0.0)
        if camera.depth:
            camera.depth = self._random.choice(["none", "zero", "saturated"]) if what == "depth" else "good"

    # The node's own reports.

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        prefix = f"{self._target.strip('/')}: "
        for status in message.status:
            if status.name.startswith(prefix):
                values = {value.key: value.value for value in status.values}
                self.diagnostics[status.name.removeprefix(prefix)] = {"message": status.message, **values}

    def ready(self) -> bool:
        """Return whether the diagnostics report a loaded model."""
        return self.diagnostics.get("engine", {}).get("state") == "ready"

    def ask(self, question: str, timeout: float = 5.0) -> str:
        """Send a request, and return the name of its outcome."""
        future = self._services["ask"].call_async(Ask.Request(question=question, options=QueryOptions(timeout=timeout)))
        self.until(future.done, timeout + 10.0, showing=True)
        return CODES.get(future.result().outcome.code, "?") if future.done() else "NO RESPONSE"

    def send_hanging(self, count: int) -> list[Any]:
        """Send requests that the engine never answers, and return their futures."""
        request = Ask.Request(question=self._text(Behaviour.HANG), options=QueryOptions(timeout=60.0))
        return [self._services["ask"].call_async(request) for _ in range(count)]

    def close(self) -> None:
        """Release all resources."""
        self.stalls.close()
        self._action.destroy()
        self._spinner.shutdown()
        self._node.destroy_node()
