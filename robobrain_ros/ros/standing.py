"""Standing queries: requests that the node repeats on the newest image."""

from collections.abc import Callable
from dataclasses import dataclass, field

from rclpy.clock import Clock, ClockType
from rclpy.timer import Timer

from robobrain_ros.bounds.control_tokens import reject_control_tokens
from robobrain_ros.core.query import Task
from robobrain_ros.errors import BadRequestError, RoboBrainError
from robobrain_ros.msg import QueryOptions
from robobrain_ros.ros.cameras.cameras import Cameras, NoSuchCameraError
from robobrain_ros.ros.cameras.images import Frame
from robobrain_ros.ros.clock import Jump
from robobrain_ros.ros.conditions import Condition, ConditionSettings
from robobrain_ros.ros.delivery import qos
from robobrain_ros.ros.delivery.boundary import GuardedNode
from robobrain_ros.ros.limits import LEAST_RATE, MOST_NAME, MOST_QUERIES, MOST_RATE, REQUESTS
from robobrain_ros.ros.messages.conversions import to_outcome
from robobrain_ros.ros.parameters.declared import Parameters
from robobrain_ros.ros.parameters.standing import STANDING_PREFIX
from robobrain_ros.ros.requests.request import TaskRequest, check_options, check_text, parse_task
from robobrain_ros.ros.requests.requests import Requests
from robobrain_ros.ros.requests.selection import ImageSelection
from robobrain_ros.ros.result_topics import ResultTopics
from robobrain_ros.srv import SetStandingQuery


@dataclass
class StandingStatistics:
    """Counts of a query since it was set.

    ``skipped`` counts images without a request, because the previous request was in progress or the query was not due.
    """

    asked: int = 0
    answered: int = 0
    failed: int = 0
    skipped: int = 0


@dataclass
class _StandingQuery:
    name: str
    task: Task
    instruction: str
    rate: float
    options: QueryOptions
    from_parameters: bool
    condition: Condition | None = None
    timer: Timer | None = None
    asking: bool = False
    last_sequence: int = -1
    """Sequence number of the image of the last request."""
    has_new_image: bool = False
    """Whether an image arrived after the last request. It counts as skipped when the next image arrives."""
    statistics: StandingStatistics = field(default_factory=StandingStatistics)
    fault: str = ""
    """A sentence about why the node cannot repeat the query with the current parameters, or an empty string if it can."""

    def asks_the_same(self, other: "_StandingQuery") -> bool:
        """Whether both queries have the same task, instruction, options and condition. Their rates may differ."""
        return self._question == other._question

    @property
    def _question(self) -> tuple[object, ...]:
        return self.task, self.instruction, self.options, self.condition and self.condition.settings


class StandingQueries:
    """The standing queries of the node, and the service ~/set_standing_query. Queries are kept through deactivation and cleanup.

    The node sends a request of a query only if the model is ready and the previous request has ended, and at most one request
    about each image.

    :param results: publishes the events of conditions. Its views forget a query whose last answer is not valid any more, because
        the query was removed or replaced, or cannot be repeated now.
    """

    def __init__(
        self,
        node: GuardedNode,
        parameters: Parameters,
        requests: Requests,
        selection: ImageSelection,
        cameras: Callable[[], Cameras],
        ready: Callable[[Task], bool],
        results: ResultTopics,
    ) -> None:
        self._node = node
        self._parameters = parameters
        self._requests = requests
        self._selection = selection
        self._cameras = cameras
        self._ready = ready
        self._results = results
        self._queries: dict[str, _StandingQuery] = {}
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._running = False
        self._service = node.create_service(SetStandingQuery, "~/set_standing_query", self._on_set, qos_profile=qos.service(0))

    @property
    def names(self) -> list[str]:
        """Names of the queries."""
        return list(self._queries)

    @property
    def statistics(self) -> dict[str, StandingStatistics]:
        """Statistics of each query by name."""
        return {name: query.statistics for name, query in self._queries.items()}

    def condition(self, name: str) -> Condition | None:
        """Return the state of a query's condition, or None if the query is no condition."""
        return self._queries[name].condition

    def fault(self, name: str) -> str:
        """Return why the node cannot repeat a query with the current parameters, as a sentence, or an empty string if it can."""
        return self._queries[name].fault

    def load(self) -> None:
        """Set the queries that the parameters describe.

        A query that the service has set is kept, even if a query of the parameters has the same name. A query whose camera is
        missing from the parameter ``cameras`` is kept, but not repeated.

        :raises BadRequestError: another value of a description is wrong.
        """
        self._load_described()
        for query in self._queries.values():
            query.fault = self._fault_of(query)
            if query.fault:
                self._node.get_logger().warning(f"The standing query {query.name} is paused. {query.fault}")

    def _load_described(self) -> None:
        named = self._parameters["standing_queries"]
        for name in [name for name, query in self._queries.items() if query.from_parameters and name not in named]:
            self._remove(name)
        for name in named:
            if name in self._queries and not self._queries[name].from_parameters:
                continue
            of_request = ("task", "instruction", "rate", "condition")
            of_options = ("camera", "cameras", "history_seconds", "history_frames")
            keys = (*of_request, *of_options, "stable_frames", "min_confidence")
            values = {key: self._parameters[f"{STANDING_PREFIX}{name}.{key}"] for key in keys}
            request = SetStandingQuery.Request(name=name, **{key: values[key] for key in of_request})
            request.options = QueryOptions(**{key: values[key] for key in of_options})
            if request.condition:
                request.stable_frames, request.min_confidence = values["stable_frames"], values["min_confidence"]
            try:
                self._set(request, from_parameters=True)
            except BadRequestError as error:
                raise BadRequestError(f"{STANDING_PREFIX}{name}: {error.message}") from error

    def _fault_of(self, query: _StandingQuery) -> str:
        try:
            self._check_cameras(query)
        except BadRequestError as error:
            return f"{error.message} Change the parameters and configure the node again, or set another query of this name."
        return ""

    def _check_cameras(self, query: _StandingQuery) -> None:
        """Check a query's cameras and their buffers with the current parameters.

        :raises BadRequestError: a camera does not exist, there are too many, or a buffer is too small.
        """
        self._selection.check_times(query.options, query.task)
        self._selection.check_count(query.task, len(self._cameras().names_of(query.options)), "cameras")

    def start(self) -> None:
        """Start to repeat the queries."""
        self._running = True
        for query in self._queries.values():
            self._start_timer(query)

    def stop(self) -> None:
        """Stop repeating the queries, and keep them."""
        self._running = False
        for query in self._queries.values():
            self._stop_timer(query)
            query.has_new_image = False
            if query.condition is not None:
                query.condition.forget("The node was deactivated.")

    def on_jump(self, jump: Jump) -> None:
        """Forget the states of conditions on cameras whose time jumped."""
        for query in self._queries.values():
            if query.condition is not None and any(map(jump.concerns, self._cameras_of(query))):
                query.condition.forget(f"Time jumped: {jump}.")

    def on_timer(self) -> None:
        """End the answers of queries that cannot be repeated now, because a camera or the model is unavailable.

        Clear the views of spatial queries, and forget the states of conditions.
        """
        for query in self._queries.values():
            if query.asking or not (query.task.spatial or query.condition) or not (obstacle := self._obstacle(query)):
                continue
            if query.task.spatial:
                self._results.forget(query.name)
            if query.condition is not None:
                query.condition.forget(obstacle)

    def _obstacle(self, query: _StandingQuery) -> str:
        """Return why a query cannot be repeated now, as a sentence, or an empty string if it can."""
        if query.fault or not self._running:
            return query.fault or "The node is not active."
        if not self._ready(query.task):
            return "The model is not ready."
        try:
            for name in self._cameras().names_of(query.options):
                self._cameras()[name].fresh(self._parameters["max_image_age"])
        except RoboBrainError as error:
            return error.message
        return ""

    def on_frame(self, frame: Frame) -> None:
        """Handle a new image: send the requests of queries at rate 0."""
        for query in self._queries.values():
            if self._camera(query) != frame.camera or not self._ready(query.task):
                continue
            query.statistics.skipped += query.has_new_image
            query.has_new_image = True
            if not query.rate:
                self._ask_if_new(query)

    def on_depth(self, camera: str) -> None:
        """Handle a new depth image: send the requests of queries at rate 0, because their image may have waited for its depth."""
        for query in self._queries.values():
            if not query.rate and query.task.spatial and self._camera(query) == camera and self._ready(query.task):
                self._ask_if_new(query)

    def _camera(self, query: _StandingQuery) -> str:
        """Return the name of the query's first camera, or an empty string if the camera does not exist now."""
        return next(iter(self._cameras_of(query)), "")

    def _cameras_of(self, query: _StandingQuery) -> list[str]:
        """Return the names of the query's cameras, or no names if one of them does not exist now."""
        if query.fault:
            return []
        try:
            return self._cameras().names_of(query.options)
        except RoboBrainError:
            return []

    def _on_set(self, request: SetStandingQuery.Request, response: SetStandingQuery.Response) -> SetStandingQuery.Response:
        try:
            if request.enabled:
                self._set(request)
            else:
                self._remove(request.name)
            response.outcome = to_outcome(None)
        except RoboBrainError as error:
            response.outcome = to_outcome(error)
        response.names = self.names
        return response

    def _set(self, request: SetStandingQuery.Request, *, from_parameters: bool = False) -> None:
        name, instruction, rate, options = request.name, request.instruction, request.rate, request.options
        if not name.strip() or not name.isprintable() or len(name) > MOST_NAME:
            raise BadRequestError(f"name is {name[:MOST_NAME]!r}; it must have 1 to {MOST_NAME} printable characters.")
        if name == REQUESTS:
            raise BadRequestError(
                f"The name {REQUESTS} is reserved: the markers of services and the action have it. Choose another name."
            )
        if name not in self._queries and len(self._queries) >= MOST_QUERIES:
            raise BadRequestError(f"{MOST_QUERIES} standing queries are set, which is the maximum. Remove one first.")
        check_text(instruction, f"instruction of the standing query {name}")
        reject_control_tokens(f"The instruction of the standing query {name}", instruction)
        if not (rate == 0.0 or LEAST_RATE <= rate <= MOST_RATE):
            raise BadRequestError(
                f"The rate of the standing query {name} is {rate:g} Hz; it must be 0 (each new image) or "
                f"{LEAST_RATE:g} to {MOST_RATE:g} Hz."
            )
        if options.images:
            raise BadRequestError(
                f"The standing query {name} contains images. Leave options.images empty: it uses the images of a camera."
            )
        check_options(options)
        query = _StandingQuery(name, parse_task(request.task), instruction, rate, options, from_parameters)
        query.condition = self._new_condition(request, query.task)
        try:
            self._check_cameras(query)
        except NoSuchCameraError:
            if not from_parameters:  # `load` records the fault of a query from the parameters.
                raise
        replaced = self._queries.get(name)
        self._queries[name] = query
        if replaced is not None:
            self._stop_timer(replaced)
            if replaced.asks_the_same(query):
                query.condition = replaced.condition  # Its state is still valid.
            self._end_answers_of(replaced, "The standing query was replaced.")
        if self._running:
            self._start_timer(query)

    def _remove(self, name: str) -> None:
        if name not in self._queries:
            known = ", ".join(self._queries) or "none"
            raise BadRequestError(f"There is no standing query {name[:MOST_NAME]!r}. The standing queries are: {known}.")
        query = self._queries.pop(name)
        self._stop_timer(query)
        self._end_answers_of(query, "The standing query was removed.")

    def _new_condition(self, request: SetStandingQuery.Request, task: Task) -> Condition | None:
        """Return the condition of a new query, or None if the query is no condition.

        :raises BadRequestError: the fields of the condition are wrong.
        """
        if not request.condition:
            if request.stable_frames or request.min_confidence:
                raise BadRequestError(
                    f"The standing query {request.name} has stable_frames or min_confidence, but is no condition. Set condition "
                    "to true, or both fields to 0."
                )
            return None
        settings = ConditionSettings.checked(request.name, task, request.stable_frames, request.min_confidence)
        return Condition(settings, request.name, request.instruction, self._results.publish_event)

    def _end_answers_of(self, query: _StandingQuery, reason: str = "") -> None:
        """End the answers of a query that was removed or replaced by another question, even during its request.

        :param reason: why its condition is unknown now.
        """
        present = self._queries.get(query.name)
        if present is None or not present.asks_the_same(query):
            self._results.forget(query.name)
            if query.condition is not None:
                query.condition.forget(reason)

    def _start_timer(self, query: _StandingQuery) -> None:
        if query.rate:
            # The clock is steady, because the rate applies to real time, even if simulated time is slower.
            period = 1.0 / query.rate
            query.timer = self._node.create_timer(period, lambda: self._ask_if_new(query), clock=self._clock)

    def _stop_timer(self, query: _StandingQuery) -> None:
        if query.timer is not None:
            self._node.destroy_timer(query.timer)
            query.timer = None

    def _ask_if_new(self, query: _StandingQuery) -> None:
        if self._queries.get(query.name) is not query:
            return  # The query was removed or replaced during its last request.
        if query.asking or not self._running or not self._ready(query.task):
            return
        frame = self._newest(query)
        if frame is None or frame.sequence <= query.last_sequence:
            return
        query.asking = True
        query.last_sequence = frame.sequence
        query.has_new_image = False
        self._node.start_task(self._ask, query, frame)

    def _newest(self, query: _StandingQuery) -> Frame | None:
        camera = self._camera(query)
        try:
            return self._selection.newest(self._cameras()[camera], query.task) if camera else None
        except RoboBrainError:
            return None  # The cameras were closed meanwhile.

    async def _ask(self, query: _StandingQuery, frame: Frame) -> None:
        statistics, condition = query.statistics, query.condition
        statistics.asked += 1
        round_ = condition.round if condition else 0
        try:
            request = TaskRequest(
                query.task.value,
                query.instruction,
                query.options,
                query=query.name,
                frame=frame,
                condition=condition is not None,
            )
            result = await self._requests.answer(request)
            statistics.answered += result.answered
            statistics.failed += not result.answered
            if condition is not None and self._queries.get(query.name) is query:
                condition.note(result, round_)
        finally:
            query.asking = False
            self._end_answers_of(query)
        if not query.rate:
            self._ask_if_new(query)  # An image may have arrived meanwhile.
