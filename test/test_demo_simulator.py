"""The simulator of the tabletop world: possible and impossible actions of the gripper, and when a goal is reached."""

from collections.abc import Sequence

import pytest

from robobrain_ros.demo.simulator import Goal, Table, reaches_goal

NAMES = ("red ball", "green ball", "blue bowl", "yellow block", "purple mug")
PUT = (
    "Move the gripper to the red ball",
    "Grasp the red ball",
    "Move the red ball above the blue bowl",
    "Release the red ball into the blue bowl",
)
IN_BOWL = Goal("in", ("red ball",), "blue bowl")


def after(*steps: str) -> Table:
    """Return the table after steps that are all possible."""
    table = Table(NAMES)
    for step in steps:
        assert table.execute(step) == "", step
    return table


def fault_of(*steps: str) -> str:
    """Return why the last step is impossible. The previous steps are possible."""
    return after(*steps[:-1]).execute(steps[-1])


def test_a_plan_moves_a_thing() -> None:
    table = after(*PUT)
    assert table.where == {"red ball": ("in", "blue bowl")}
    assert table.held == ""
    assert table.holds(IN_BOWL)


@pytest.mark.parametrize("word", ["Pick up", "Grasp", "grab", "Take", "Lift", "hold"])
def test_words_for_grasping(word: str) -> None:
    assert after(f"{word} the purple cup.").held == "purple mug"


@pytest.mark.parametrize(
    ("release", "where"),
    [
        ("Release the red ball into the blue bowl", ("in", "blue bowl")),
        ("Place the red ball in the blue bowl.", ("in", "blue bowl")),
        ("drop the red ball inside the blue bowl", ("in", "blue bowl")),
        ("Put the red ball onto the yellow cube", ("on", "yellow block")),
        ("Lower the red ball on top of the yellow block", ("on", "yellow block")),
        ("Set the red ball next to the purple cup", ("beside", "purple mug")),
        ("Release the red ball beside the purple mug", ("beside", "purple mug")),
    ],
)
def test_words_for_releasing(release: str, where: tuple[str, str]) -> None:
    assert after("Grasp the red ball", release).where == {"red ball": where}


@pytest.mark.parametrize("carry", ["Move the red ball above the blue bowl", "Carry the red ball to the blue bowl"])
def test_a_thing_is_released_where_it_was_carried(carry: str) -> None:
    assert after("Grasp the red ball", carry, "Release the red ball").where == {"red ball": ("on", "blue bowl")}


def test_what_is_held_can_be_lifted() -> None:
    assert after("Grasp the red ball", "Lift the red ball").held == "red ball"


@pytest.mark.parametrize(
    ("steps", "fault"),
    [
        (("Grasp the red ball", "Grasp the red ball"), "holds the red ball already"),
        (("Grasp the red ball", "Pick up the green ball"), "holds the red ball already"),
        (("Release the red ball into the blue bowl",), "does not hold the red ball"),
        (("Grasp the green ball", "Release the red ball into the blue bowl"), "does not hold the red ball"),
        (("Move the red ball above the blue bowl",), "does not hold the red ball"),
        ((*PUT, "Release the red ball into the blue bowl"), "does not hold the red ball"),
        (("Grasp the pink mug",), "there is no pink mug"),
        (("Grasp the red mug",), "there is no red mug"),
        (("Grasp the red ball", "Release the red ball into the green bowl"), "there is no green bowl"),
        (("Grasp the red ball", "Release the red ball into the yellow block"), "yellow block cannot hold"),
        (("Grasp the red ball", "Release the red ball into the purple mug"), "purple mug cannot hold"),
        (("Grasp the blue bowl", "Release the blue bowl into the blue bowl"), "onto itself"),
        (("Grasp it",), "nothing on the table is named"),
        (("",), "nothing on the table is named"),
        (("Sing to the red ball",), "not something that the gripper can do"),
    ],
)
def test_what_cannot_be_done_is_refused(steps: Sequence[str], fault: str) -> None:
    assert fault in fault_of(*steps)


def test_a_refused_step_changes_nothing() -> None:
    table = after("Grasp the red ball")
    table.execute("Release the red ball into the yellow block")
    assert (table.held, table.where) == ("red ball", {})


@pytest.mark.parametrize(
    ("steps", "goal", "holds"),
    [
        (PUT, IN_BOWL, True),
        (PUT, Goal("on", ("red ball",), "blue bowl"), False),
        (PUT, Goal("in", ("green ball",), "blue bowl"), False),
        (PUT, Goal("in", ("red ball", "green ball"), "blue bowl"), False),
        ((*PUT, *(step.replace("red", "green") for step in PUT)), Goal("in", ("red ball", "green ball"), "blue bowl"), True),
        ((*PUT, "Grasp the red ball"), IN_BOWL, False),
        ((*PUT, "Grasp the green ball"), IN_BOWL, False),
        (("Grasp the red ball",), Goal("held", ("red ball",)), True),
        (("Grasp the green ball",), Goal("held", ("red ball",)), False),
        ((), Goal("held", ("red ball",)), False),
        (PUT, Goal("held", ("red ball",)), False),
        (("Grasp the red ball", "Release the red ball"), Goal("on", ("red ball",), "blue bowl"), False),
        ((), IN_BOWL, False),
    ],
)
def test_when_a_goal_holds(steps: Sequence[str], goal: Goal, holds: bool) -> None:
    reached, fault = reaches_goal(NAMES, steps, goal)
    assert reached is holds
    assert (fault == "") is holds


def test_one_bad_step_spoils_a_plan() -> None:
    reached, fault = reaches_goal(NAMES, (*PUT, "Release the red ball"), IN_BOWL)
    assert not reached
    assert "does not hold" in fault


def test_a_plan_that_stops_early_says_so() -> None:
    assert reaches_goal(NAMES, PUT[:3], IN_BOWL) == (False, "the goal is not reached after the last step")
