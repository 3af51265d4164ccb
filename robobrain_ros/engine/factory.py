"""The engine that the options describe."""

from robobrain_ros.engine.base import Engine
from robobrain_ros.engine.http.front import HttpFront
from robobrain_ros.engine.http.options import ServerOptions
from robobrain_ros.engine.options import EngineOptions


def make_engine(options: EngineOptions, front: HttpFront | None = None) -> Engine:
    """An engine of the kind that is wanted, not started. Each needs packages that users of the other may not have.

    :param front: opens an embedded engine to others over HTTP.
    """
    if options.kind == "remote":
        from robobrain_ros.engine.remote.engine import RemoteEngine

        return RemoteEngine(options)
    from robobrain_ros.engine.embedded.engine import EmbeddedEngine

    engine = EmbeddedEngine(options)
    if front is None:
        return engine
    from robobrain_ros.engine.http.server import ServedEngine

    return ServedEngine(engine, front)


def make_front(server: ServerOptions, options: EngineOptions) -> HttpFront | None:
    """The port of the engine's HTTP server, not open yet; None: it is not wanted. Reads the file with the key.

    :raises EngineConfigError: an option is wrong.
    """
    server.validate(options)
    return HttpFront(server, options) if server.enabled else None
