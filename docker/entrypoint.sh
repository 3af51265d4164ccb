#!/usr/bin/env bash
# Runs a command with ROS, the environment of vLLM, and this package.
set -e
. "/opt/ros/$ROS_DISTRO/setup.bash"
. /ws/venv/bin/activate
. /ws/install/setup.bash
exec "$@"
