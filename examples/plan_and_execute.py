"""Plan a task, execute the steps, and plan again after a failure, until the node reports that the task is done.

Replace `ROBOT` and `execute` with your robot. The arguments are the task and the objects on the table::

    python3 plan_and_execute.py "put the red block into the green bowl" "red block" "green bowl"
"""

import argparse
import json
import sys
from typing import Any

import rclpy
from rclpy.client import Client
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.time import Time
from rclpy.utilities import remove_ros_args

from robobrain_ros.msg import DoneStep, Outcome, Place, Plan, PlanContext, PlanStep, QueryOptions, Robot, Skill
from robobrain_ros.srv import MakePlan

TRIES = 20  # Largest number of plan requests.
LIMIT = 60.0  # Seconds to wait for a response.
TIMEOUT = LIMIT - 10.0  # Seconds after which the node ends a request, at the latest. Its response then arrives before `LIMIT`.
OBJECT = {"type": "string", "format": "object"}  # One of the scene's objects.
PUT = {"object": OBJECT, "relation": {"type": "string", "enum": ["in", "on", "beside"]}, "place": OBJECT}


def skill(name: str, description: str, effect: int, **properties: object) -> Skill:
    """Return a skill that needs all of these arguments and changes whether the robot holds `object`."""
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return Skill(name=name, description=description, arguments_schema=json.dumps(schema), effect=effect, object_argument="object")


ROBOT = Robot(name="arm", type="an arm with a gripper")
ROBOT.skills.append(skill("pick", "grasp an object and lift it", Skill.EFFECT_GRASPS, object=OBJECT))
ROBOT.skills.append(skill("place", "put the held object in, on or beside another one", Skill.EFFECT_RELEASES, **PUT))


def execute(step: PlanStep) -> str:
    """Execute a step on the robot. Return the reason of a failure, or an empty string. Keep `ROBOT.holding` up to date."""
    arguments = json.loads(step.arguments)
    print(f"{step.robot}: {step.skill} {arguments}")
    ROBOT.holding = arguments["object"] if step.skill == "pick" else ""
    return ""


def call(node: Node, client: Client, request: Any) -> Any:
    """Return the node's response; exit with a message if there is none."""
    if not client.wait_for_service(timeout_sec=10.0):
        sys.exit(f"There is no service {client.srv_name}. Is the node running?")
    future = client.call_async(request)
    rclpy.spin_until_future_complete(node, future, timeout_sec=LIMIT)
    return future.result() if future.done() else sys.exit(f"No response from {client.srv_name} within {LIMIT:.0f} s.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Plan a task and execute its steps.")
    parser.add_argument("task")
    parser.add_argument("objects", nargs="+", help="names of the objects on the table")
    given = parser.parse_args(remove_ros_args(sys.argv)[1:])
    rclpy.init()
    node = rclpy.create_node("plan_and_execute")
    client = node.create_client(MakePlan, "robobrain/plan")
    context = PlanContext(robots=[ROBOT], scene=[Place(name="table", objects=given.objects)])
    moved_at = Time.from_msg(Plan().header.stamp)  # The robot has not moved yet.
    executed, repetitions = list[tuple[str, str]](), 0
    for _ in range(TRIES):
        response = call(node, client, MakePlan.Request(task=given.task, context=context, options=QueryOptions(timeout=TIMEOUT)))
        outcome, plan = response.outcome, response.plan
        if outcome.code == Outcome.OK and Time.from_msg(plan.header.stamp) < moved_at:
            rclpy.spin_until_future_complete(node, rclpy.task.Future(), timeout_sec=0.1)  # The image is too old: wait.
            continue
        if outcome.code not in (Outcome.OK, Outcome.INFEASIBLE_PLAN):
            sys.exit(outcome.message)
        if plan.verdict == Plan.VERDICT_DONE:
            print("The task is done.")
            return
        context.feedback = outcome.message  # Why the plan is infeasible.
        if steps := [(step.skill, step.arguments) for step in plan.steps]:
            repetitions, executed = (repetitions + 1 if steps == executed else 0), steps
        if repetitions == 2:
            sys.exit("The plan was executed twice, and the image does not show its effect.")
        for step in plan.steps:
            step_outcome = DoneStep.FAILED if (problem := execute(step)) else DoneStep.SUCCEEDED
            done = {name: getattr(step, name) for name in ("text", "robot", "skill", "arguments")}
            context.done.append(DoneStep(**done, outcome=step_outcome, observation=problem))
            context.mode, moved_at = PlanContext.MODE_REPLAN, node.get_clock().now()
            if problem:
                executed = []
                break
    sys.exit(f"The task is not done after {TRIES} requests. Does the camera stamp its images with the node's clock?")


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit(130)
