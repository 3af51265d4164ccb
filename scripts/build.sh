#!/usr/bin/env bash
# Builds the interfaces and installs the Python modules: build/, install/ and log/ beside this folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export AMENT_PREFIX_PATH="$PWD/.venv" CMAKE_PREFIX_PATH="$PWD/.venv" VIRTUAL_ENV="$PWD/.venv" PATH="$PWD/.venv/bin:$PATH"
exec python -m colcon build --symlink-install --base-paths . --packages-select robobrain_ros --event-handlers console_direct- \
  --cmake-args -DBUILD_TESTING=OFF "$@"
