#!/usr/bin/env bash
# Builds the interfaces and installs everything into install/, with links to the Python sources: an edit needs no new build.
# Extra arguments go to colcon.
set -eo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
rm -f install/local_setup.bash  # env.sh would put an older build first in every path.
. scripts/env.sh
# A module that moved or went leaves its link behind.
[ ! -d install ] || find install -xtype l -delete
echo "Building the messages and the package. The first time, this takes about 3 minutes on two cores."
# python -m colcon: the environment's own Python, whichever colcon is first in PATH. Its warnings are about the environment
# not being a workspace.
exec python -m colcon --log-level error build --base-paths . --packages-select robobrain_ros --symlink-install --cmake-args -DBUILD_TESTING=OFF "$@"
