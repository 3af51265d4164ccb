"""The engine that the options describe."""

from robobrain_ros.engine.base import Engine
from robobrain_ros.engine.options import EngineOptions, ServerOptions
from robobrain_ros.engine.server_guard import ServerState


def make_engine(options: EngineOptions, server: ServerOptions | None = None, state: ServerState | None = None) -> Engine:
    """An engine of the kind that is wanted, not started. Each needs packages that users of the other may not have.

    :param server: opens an embedded engine to others over HTTP.
    :param state: where its server tells how it is.
    """
    if options.kind == "remote":
        from robobrain_ros.engine.remote import RemoteEngine

        return RemoteEngine(options)
    from robobrain_ros.engine.embedded import EmbeddedEngine

    engine = EmbeddedEngine(options)
    if server is None or not server.enabled:
        return engine
    from robobrain_ros.engine.server import ServedEngine

    return ServedEngine(engine, server, state or ServerState())
