"""Run through a bag: read, ask with several requests in flight, and write the answers in the order of the recording."""

import asyncio
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from robobrain_ros.bags.answers import OVERLAY_TOPIC, RESULT_TOPICS, VIEW_PROFILE, MomentReplies, Responder
from robobrain_ros.bags.errors import BagError
from robobrain_ros.bags.markers import MARKERS_TOPIC
from robobrain_ros.bags.messages import COMPRESSED, MARKERS, PACKAGE
from robobrain_ros.bags.moments import Moment, Moments
from robobrain_ros.bags.output import Output
from robobrain_ros.bags.profiles import latched
from robobrain_ros.bags.questions import Question
from robobrain_ros.bags.source import Record, Source
from robobrain_ros.bags.summary import Pace, Summary
from robobrain_ros.bags.tables import Table
from robobrain_ros.bags.video import Video
from robobrain_ros.errors import OutcomeCode

AT_ONCE = 8
"""Requests at the same time."""
_WINDOW = 4
"""Images in work for each request at the same time, so that a slow answer at the head does not stop the others."""
_MOST_BYTES = 256 * 2**20
"""Size of the images in work, after which no further image is read unless there are fewer than the requests at the same time."""
_DRAIN = 0.02
"""Seconds between two looks at the queue while the reader ends."""
_SWITCH = 0.0005
"""Seconds after which Python changes to another thread. The loop, which feeds the engine, waits that long for the GIL."""
_BATCH_BYTES, _BATCH = 4 * 2**20, 256
"""Size and number of copied messages that are written together."""
_STOPPED = (OutcomeCode.ENGINE_FAILED, OutcomeCode.NOT_READY, OutcomeCode.BUSY, OutcomeCode.CANCELED)
"""Outcomes after which the run stops, because each further request would end like this."""

Result = TypeVar("Result")


@dataclass
class Sinks:
    """What is written beside the output bag."""

    tables: Sequence[Table] = ()
    video: Video | None = None

    def close(self) -> None:
        """Finish the files, also after one of them fails.

        :raises BagError: a file is incomplete.
        """
        with ExitStack() as stack:
            if self.video is not None:
                stack.callback(self.video.close)
            for table in self.tables:
                stack.callback(table.close)


class Run:
    """One run through a bag.

    :param writer: a pool of one thread, in which the output was opened, because SQLite allows only one thread. The run ends it.
    :param node: name of the node, before its result topics.
    :param on_progress: called with the progress as a line after each image.
    :param on_note: called with a sentence about a topic that is not copied.
    :param at_once: largest number of requests at the same time, for the size of the window.
    """

    def __init__(
        self, source: Source, output: Output, writer: ThreadPoolExecutor, questions: Sequence[Question], responder: Responder,
        *, node: str, at_once: int = AT_ONCE, sinks: Sinks | None = None, overlay: bool = False, markers: bool = False,
        on_progress: Callable[[str], None] = lambda line: None, on_note: Callable[[str], None] = lambda note: None,
    ) -> None:  # fmt: skip
        self._source = source
        self._output = output
        self._responder = responder
        self._node = node
        self._sinks = sinks or Sinks()
        self._on_progress = on_progress
        self._on_note = on_note
        self._at_once, self._slots = at_once, _WINDOW * at_once
        self._writer = writer
        self._stop, self._stopped = threading.Event(), asyncio.Event()
        self._first, self._skipped = output.progress.moments, output.progress.copied
        self.summary = Summary([question.title for question in questions], output.progress.counts)
        self.pace = Pace(source.begin, source.end)
        names = {RESULT_TOPICS[question.task].name: RESULT_TOPICS[question.task].type_name for question in questions}
        self._topics = {name: f"{PACKAGE}/msg/{type_name}" for name, type_name in names.items()}
        if overlay:
            self._topics[OVERLAY_TOPIC] = COMPRESSED
        if markers:
            self._topics[MARKERS_TOPIC] = MARKERS
        self._connections: dict[str, Any] = {}
        self._copies: dict[int, Any] = {}
        self._batch: list[tuple[Any, int, bytes]] = []
        self._batch_bytes = self._seen = 0

    def stop(self) -> None:
        """End the run soon. The images that are finished are written. Call it in the loop of `run`."""
        self._stop.set()
        self._stopped.set()

    @property
    def written_topics(self) -> list[str]:
        """The topics of the answers."""
        return [self._full(name) for name in self._topics]

    async def run(self, moments: Moments, copied: Sequence[str]) -> bool:
        """Answer, write and close the bag. Return whether all images are finished.

        :param copied: topics of the input whose messages are copied. They must be those of ``moments``.
        :raises BagError: the bag is damaged, the output cannot be written, or the engine fails. The output is readable.
        """
        moments.on_record = self._on_record
        queue: asyncio.Queue[Moment | BaseException | None] = asyncio.Queue(2)
        complete = False
        interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH)
        reader = ThreadPoolExecutor(1, "bag-reader")
        try:
            await self._in_writer(self._add_topics, copied)
            loop = asyncio.get_running_loop()
            reading = asyncio.ensure_future(loop.run_in_executor(reader, self._read, moments, queue, loop))
            try:
                complete = await self._answer(queue)
            finally:
                self.stop()
                while not reading.done():  # It can wait for a place in the queue.
                    while not queue.empty():
                        queue.get_nowait()
                    await asyncio.wait({reading}, timeout=_DRAIN)
        finally:
            try:
                await self._in_writer(self._close, complete)
            finally:
                self._sinks.close()
                reader.shutdown()
                self._writer.shutdown()
                sys.setswitchinterval(interval)
        return complete

    async def _answer(self, queue: "asyncio.Queue[Moment | BaseException | None]") -> bool:
        """Answer all images of the queue in order. Return whether all are finished.

        :raises BagError: the bag is damaged, the output cannot be written, or the engine fails.
        """
        tasks: deque[asyncio.Task[MomentReplies]] = deque()
        sizes: deque[int] = deque()  # of the images of the tasks
        stopped = asyncio.ensure_future(self._stopped.wait())
        getting: asyncio.Future[Moment | BaseException | None] | None = None
        end: BaseException | None = None
        reads = True
        try:
            while reads or tasks:
                has_space = len(tasks) < self._at_once or (len(tasks) < self._slots and sum(sizes) < _MOST_BYTES)
                if reads and getting is None and has_space:
                    getting = asyncio.ensure_future(queue.get())
                waits = {stopped, *(item for item in (getting, tasks[0] if tasks else None) if item is not None)}
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if stopped.done():
                    break
                if getting is not None and getting.done():
                    found, getting = getting.result(), None
                    if isinstance(found, Moment):
                        tasks.append(asyncio.create_task(self._responder.answer(found)))
                        sizes.append(found.size)
                    else:
                        reads, end = False, found
                while tasks and tasks[0].done():
                    sizes.popleft()
                    await self._finish(tasks.popleft().result())
            while tasks and tasks[0].done():
                await self._finish(tasks.popleft().result())
        finally:
            for future in (stopped, getting, *tasks):
                if future is not None:
                    future.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if end is not None:
            raise end
        return not reads and not tasks

    async def _finish(self, done: MomentReplies) -> None:
        failed = next((reply for reply in done.replies if reply.code in _STOPPED), None)
        if failed is not None:
            raise BagError(
                f"{failed.code.name}: {failed.message} {self._output.path} contains the answers about "
                f"{self._output.progress.moments} images. Run the same command again to continue."
            )
        self.summary.add(done.replies)
        await self._in_writer(self._write, done, self.summary.to_counts())
        self._on_progress(self.pace.line(done.time))

    async def _in_writer(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function in the thread of the writer."""
        return await _settled(asyncio.get_running_loop().run_in_executor(self._writer, function, *arguments))

    # The following methods run in the thread of the writer.

    def _full(self, name: str) -> str:
        return f"/{self._node.strip('/')}/{name}"

    def _add_topics(self, copied: Sequence[str]) -> None:
        for name, kind in self._topics.items():
            profiles = latched(*VIEW_PROFILE) if name in (OVERLAY_TOPIC, MARKERS_TOPIC) else latched()
            self._connections[name] = self._output.add_topic(self._full(name), kind, profiles)
        for topic in copied:
            known: dict[str, Any] = {}  # Several publishers of a topic can have one connection each.
            for connection in self._source.topics[topic].connections:
                kind = connection.msgtype
                copy = self._output.copy_topic(connection) or known.get(kind)
                self._copies[connection.id] = known[kind] = copy
                if copy is None:
                    self._on_note(f"The topic {topic} is not copied, because the bag has no definition of its type {kind}.")

    def _write(self, done: MomentReplies, counts: dict[str, Any]) -> None:
        for table in self._sinks.tables:
            table.add(row for reply in done.replies for row in reply.rows)
        if self._sinks.video is not None and done.drawn is not None:
            self._sinks.video.add(done.time, done.drawn)
        messages = [(self._connections[reply.result[0]], done.time, reply.result[1]) for reply in done.replies if reply.result]
        if done.overlay is not None:
            messages.append((self._connections[OVERLAY_TOPIC], done.time, done.overlay))
        if done.markers is not None:
            messages.append((self._connections[MARKERS_TOPIC], done.time, done.markers))
        self._output.progress.counts = counts
        self._output.write(messages, moments=1)

    def _close(self, complete: bool) -> None:
        self._output.close(complete=complete)

    def _write_batch(self, batch: list[tuple[Any, int, bytes]], count: int) -> None:
        self._output.write(batch, copied=count)

    # The following methods run in the thread of the reader.

    def _read(self, moments: Moments, queue: "asyncio.Queue[Any]", loop: asyncio.AbstractEventLoop) -> None:
        end: BaseException | None = None
        try:
            for moment in moments:
                if self._stop.is_set():
                    return
                if moment.number >= self._first:
                    asyncio.run_coroutine_threadsafe(queue.put(moment), loop).result()
            self._flush()
        except BaseException as error:
            end = error
        if not self._stop.is_set():
            asyncio.run_coroutine_threadsafe(queue.put(end), loop).result()

    def _on_record(self, record: Record) -> None:
        """Copy a message of the input.

        :raises BagError: the disk is full.
        """
        self._seen += 1
        if self._seen <= self._skipped:
            return
        connection = self._copies.get(record.connection.id)
        if connection is not None:
            self._batch.append((connection, record.time, record.raw))
            self._batch_bytes += len(record.raw)
        if self._batch_bytes > _BATCH_BYTES or len(self._batch) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._batch and not self._stop.is_set():
            count, self._skipped = self._seen - self._skipped, self._seen
            self._writer.submit(self._write_batch, self._batch, count).result()
        self._batch, self._batch_bytes = [], 0


async def _settled(future: Awaitable[Result]) -> Result:
    """Await a call in a thread, also if this task is cancelled meanwhile, because the call cannot be stopped."""
    task = asyncio.ensure_future(future)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
    return task.result()
