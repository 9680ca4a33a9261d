#!/usr/bin/env bash
# Give the command the environment of ROS 2 and of the workspace.
set -eo pipefail
# shellcheck source=/dev/null
. "/opt/ros/$ROS_DISTRO/setup.bash"
# shellcheck source=scripts/env.sh
. /opt/rlt/scripts/env.sh
exec "$@"
