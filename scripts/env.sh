# Source this (`. scripts/env.sh`) to use the built package by hand: the virtual environment, ROS and the install folder.
_repository="$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd)"
. "$_repository/.venv/bin/activate"
export AMENT_PREFIX_PATH="$_repository/.venv" CMAKE_PREFIX_PATH="$_repository/.venv"
. "$_repository/install/local_setup.bash"
unset _repository
