"""Create an engine and its HTTP server from the options."""

from robobrain_ros.engine.base import CheckOrigin, Engine
from robobrain_ros.engine.http.front import HttpFront
from robobrain_ros.engine.http.options import ServerOptions
from robobrain_ros.engine.options import EngineOptions


def make_engine(options: EngineOptions, front: HttpFront | None = None, check_origin: CheckOrigin | None = None) -> Engine:
    """Return an engine of ``options.kind`` that is not started. Each kind imports packages that the other does not need.

    :param front: HTTP server of an embedded engine, or None for no server.
    :param check_origin: called with the model's origin before the model is loaded. None: ``engine.model_type`` alone states the
        model type of remote engines.
    """
    if options.kind == "remote":
        from robobrain_ros.engine.remote.engine import RemoteEngine

        return RemoteEngine(options, check_origin=check_origin)
    from robobrain_ros.engine.embedded.engine import EmbeddedEngine

    engine = EmbeddedEngine(options, check_origin=check_origin)
    if front is None:
        return engine
    from robobrain_ros.engine.http.server import ServedEngine

    return ServedEngine(engine, front)


def make_front(server: ServerOptions, options: EngineOptions) -> HttpFront | None:
    """Return the engine's HTTP server, whose port is not open yet, or None if it is disabled. Reads the file with the key.

    :raises EngineConfigError: an option is wrong.
    """
    server.validate(options)
    return HttpFront(server, options) if server.enabled else None
