"""The whole suite of test_ros_demo_model.py once more, with a server of vLLM's as the engine."""

from collections.abc import Iterator

import pytest
from ros_rig import rig
from test_ros_demo_model import *  # noqa: F403  # All of its tests, also those that it will have.
from test_ros_demo_model import CAMERAS, Table
from vllm_server import START, node_parameters, running_server


@pytest.fixture(scope="module")  # type: ignore[no-redef]  # In place of the one that comes with the tests.
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    """A node whose engine is the server, with two cameras."""
    with running_server() as url:
        engine = node_parameters(url, tmp_path_factory.mktemp("secret"))
        with rig(None, **CAMERAS, **engine) as running:
            running.until_ready(START)
            yield Table(running)
