# Source this (". scripts/env.sh", in bash or zsh) to use the built package by hand. It activates .venv, sets the prefix of ROS 2
# from PyPI, and adds the install folder. If .venv was set up with a sourced ROS, source that ROS first. On an error, the file
# changes nothing and returns 1.
_repository="$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd)"
_fault=""
if [ ! -f "$_repository/.venv/bin/activate" ]; then
  _fault="There is no environment in .venv. Run make setup."
elif [ ! -d "$_repository/.venv/share/rclpy" ]; then
  if [ -z "${ROS_DISTRO:-}" ]; then
    _fault="The environment in .venv was set up for a sourced ROS. Source /opt/ros/<distro>/setup.bash, or run make setup again."
  fi
elif [ -n "${ROS_DISTRO:-}" ]; then
  for _prefix in $(printf '%s' "${AMENT_PREFIX_PATH:-}" | tr : '\n'); do
    case "$_prefix" in "$_repository"/*) continue ;; esac
    if [ -d "$_prefix/share/rclpy" ]; then
      _fault="ROS 2 $ROS_DISTRO is sourced, but .venv contains ROS 2 from PyPI, and the two cannot be used together."
      _fault="$_fault Use a shell without a sourced ROS, or run make setup here to set up .venv for the sourced ROS."
    fi
  done
  unset _prefix
fi
if [ -n "$_fault" ]; then
  echo "$_fault" >&2
  unset _repository _fault
  return 1
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
unset _repository _fault
