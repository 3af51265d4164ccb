"""The parameters about approach poses and trajectories. They are a part of the table of the node's parameters."""

from robobrain_ros.core.traces.checks import MOST_WAYPOINTS
from robobrain_ros.ros.limits import MOST_FRAME, MOST_NAME
from robobrain_ros.ros.parameters.parameter import Applies, Parameter

MOTION_PARAMETERS = (
    Parameter(
        "approach_distance",
        0.1,
        "Metres from pre_grasp to pose in answers of ~/approach. The field distance of a request overrides it.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=10.0,
    ),
    Parameter(
        "approach_max_angle",
        7.5,
        "Largest standard deviation of the approach direction in degrees. If the deviation is larger, there is no approach pose.",
        applies=Applies.AT_ONCE,
        minimum=0.1,
        maximum=90.0,
    ),
    Parameter(
        "approach_background",
        0.15,
        "Smallest radius in metres of background, such as a table or a wall. A point has no approach pose if a flat surface "
        "extends at least this far around it. 0: such points have an approach pose too, for example to push a door.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=100.0,
        least=0.01,
    ),
    Parameter(
        "gripper_opening",
        0.1,
        "Largest distance between the gripper's fingers in metres. ~/approach uses all gripper_* parameters to check whether the "
        "gripper fits.",
        applies=Applies.AT_ONCE,
        minimum=0.01,
        maximum=1.0,
    ),
    Parameter(
        "gripper_finger_length",
        0.055,
        "Distance in metres from the gripper's palm to its fingertips.",
        applies=Applies.AT_ONCE,
        minimum=0.01,
        maximum=1.0,
    ),
    Parameter(
        "gripper_finger_breadth",
        0.024,
        "Size of a finger in metres along x of an approach pose, perpendicular to the closing direction.",
        applies=Applies.AT_ONCE,
        minimum=0.001,
        maximum=0.5,
    ),
    Parameter(
        "gripper_finger_thickness",
        0.01,
        "Size of a finger in metres along y of an approach pose, the closing direction.",
        applies=Applies.AT_ONCE,
        minimum=0.001,
        maximum=0.5,
    ),
    Parameter(
        "strict_traces",
        False,
        "true: the request ends with UNSAFE_TRAJECTORY if its trajectory has issues, or if the node left out a check. false: the "
        "outcome is OK. With both values, the field issues lists the issues, and the field unchecked lists the checks that were "
        "left out.",
        applies=Applies.AT_ONCE,
    ),
    Parameter(
        "trajectory_robot",
        "",
        "Name of the robot in robots_file whose workspace and reach limit trajectories. Empty: the only robot that has a "
        "workspace or a reach.",
        longest=MOST_NAME,
    ),
    Parameter(
        "trajectory_max_step",
        0.0,
        "Longest step in metres between two poses of a trajectory. 0: no limit.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=1000.0,
    ),
    Parameter(
        "trajectory_duration",
        0.0,
        "Seconds from the first to the last waypoint of a trajectory. trajectory_max_speed needs this value. 0: unknown.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=86400.0,
    ),
    Parameter(
        "trajectory_max_speed",
        0.0,
        "Largest speed in metres per second on a trajectory. It needs trajectory_duration. 0: no limit.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=1000.0,
    ),
    Parameter(
        "trajectory_gripper_frame",
        "",
        "Frame of the gripper, for the check of the start of a trajectory. Empty: the start is not checked.",
        longest=MOST_FRAME,
    ),
    Parameter(
        "trajectory_max_start",
        0.1,
        "Largest distance in metres of the first waypoint from the gripper. It needs trajectory_gripper_frame. 0: no limit.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=1000.0,
    ),
    Parameter(
        "trajectory_max_behind",
        0.02,
        "Largest distance in metres that a trajectory may extend behind the surface in the depth image. Set this to the error of "
        "the depth camera.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=100.0,
    ),
    Parameter(
        "trajectory_up_frame",
        "",
        'Frame whose z axis points up. The check of heights in instructions, such as "5 cm above the bowl", needs it. Empty: '
        "target_frame.",
        longest=MOST_FRAME,
    ),
    Parameter(
        "trajectory_poses",
        0,
        "Number of poses to which trajectories are resampled. 0: trajectory_pose_step decides.",
        applies=Applies.AT_ONCE,
        minimum=0,
        maximum=MOST_WAYPOINTS,
        least=2,
    ),
    Parameter(
        "trajectory_pose_step",
        0.0,
        "Largest distance in metres between two poses of a resampled trajectory. trajectory_poses overrides it. If both "
        "parameters are 0, the node does not resample, and the poses are at the waypoints.",
        applies=Applies.AT_ONCE,
        minimum=0.0,
        maximum=1000.0,
        least=0.0001,
    ),
    Parameter(
        "trajectory_smoothing",
        0,
        "Rounds of smoothing of the poses of a trajectory. Each round moves each pose towards the middle of its neighbours, "
        "except the first and the last pose. 0: no smoothing.",
        applies=Applies.AT_ONCE,
        minimum=0,
        maximum=1000,
    ),
)
