#!/usr/bin/env bash
# Run one command in the environment of the built workspace: scripts/with_env.sh python -m rlt_bringup.demo
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"
exec "$@"
