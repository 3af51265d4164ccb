# Source this (". scripts/env.sh", in bash or zsh) to use the built package by hand: it activates .venv, tells ROS 2 from PyPI
# where it lies, and adds the install folder. If .venv was set up with a sourced ROS, source that ROS first.
_repository="$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd)"
if [ ! -f "$_repository/.venv/bin/activate" ]; then
  echo "There is no environment yet: run make setup first." >&2
elif [ ! -d "$_repository/.venv/share/rclpy" ] && [ -z "${ROS_DISTRO:-}" ]; then
  echo "The environment was set up for a sourced ROS: source /opt/ros/<distro>/setup.bash first, or run make setup again." >&2
else
  # Remove the builds of other clones from the paths: this shell uses the build of this clone, or none.
  for _name in PATH PYTHONPATH LD_LIBRARY_PATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH; do
    eval "_value=\"\${$_name:-}\""
    case "$_value" in */install/robobrain_ros*)
      _value="$(printf '%s\n' "$_value" | tr : '\n' | sed -E '\#/install/robobrain_ros(/|$)#d' | paste -sd : -)"
      if [ -n "$_value" ]; then eval "export $_name=\"\$_value\""; else unset "$_name"; fi ;;
    esac
  done
  . "$_repository/.venv/bin/activate"
  if [ -d "$_repository/.venv/share/rclpy" ]; then  # ROS 2 from PyPI: the environment itself is the prefix.
    export AMENT_PREFIX_PATH="$_repository/.venv" CMAKE_PREFIX_PATH="$_repository/.venv"
    export PATH="$_repository/install/robobrain_ros/lib/robobrain_ros:$PATH"  # There is no `ros2 run`: robobrain starts the node.
  fi
  _setup="$_repository/install/local_setup.${ZSH_VERSION:+z}${BASH_VERSION:+ba}sh"
  if [ -f "$_setup" ]; then
    . "$_setup"
  else
    case $- in *i*) echo "This clone is not built yet: run make build, then source this file again." >&2 ;; esac
  fi
  unset _setup _name _value
fi
unset _repository
