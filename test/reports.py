"""Get reports of requests whose answers can be noise."""

from robobrain_ros.core import Brain, Query
from robobrain_ros.core.query import Report
from robobrain_ros.errors import RoboBrainError


async def report_of(brain: Brain, query: Query) -> Report:
    """Run a query, and return its report, even if its answer is unusable.

    :raises RoboBrainError: the request ended before it had a report.
    """
    try:
        return (await brain.run(query)).report
    except RoboBrainError as error:
        if error.report is None:
            raise
        return error.report
