"""The engine that the options describe."""

from robobrain_ros.engine.base import Engine
from robobrain_ros.engine.options import EngineOptions


def make_engine(options: EngineOptions) -> Engine:
    """An engine of the kind that is wanted, not started. Each needs packages that users of the other may not have."""
    if options.kind == "remote":
        from robobrain_ros.engine.remote import RemoteEngine

        return RemoteEngine(options)
    from robobrain_ros.engine.embedded import EmbeddedEngine

    return EmbeddedEngine(options)
