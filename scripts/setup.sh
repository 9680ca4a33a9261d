#!/usr/bin/env bash
# Make the environment (.venv) and build the workspace (build/, install/). Running it again is quick when nothing changed.
# With the argument `environment` it stops before the workspace: images use that to keep the two in layers of their own.
#
# Two ways, chosen by what is there:
#   ros     a ROS 2 installation is sourced: .venv sees its packages and adds the pinned ones that rosdep does not have;
#   wheels  no ROS 2: ROS 2 Jazzy itself comes into .venv as Python wheels.
#
# RLT_PYTHON       the Python to use (way `wheels`; default: that of .venv, else the first of python3, python3.12, ... that fits)
# RLT_ROS=wheels   take the wheels although ROS 2 is installed
# RLT_TORCH_INDEX  package index that PyTorch, and only PyTorch, is installed from, for example PyTorch's index of CPU builds
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
root=$PWD
venv=$root/.venv
# shellcheck source=scripts/setup_lib.sh
. scripts/setup_lib.sh

mkdir -p log
exec 9>log/setup.lock
flock --nonblock 9 || { say "another setup is running in this checkout; waiting for it"; flock 9; }

way=$(choose_way)
hash_environment() {
  { echo "$way" "${RLT_TORCH_INDEX:-}"; cat requirements*.txt constraints.txt scripts/setup.sh scripts/relocate_ros_wheels.py; } | digest
}
# Contents of what colcon reads, and names of the installed files, which are links to the sources.
hash_workspace() {
  {
    hash_environment
    find src -type f \( -name package.xml -o -name setup.py -o -name setup.cfg -o -path '*_msgs/*' \) -print0 |
      sort -z | xargs -0 cat
    find src -type f \( -path '*/config/*' -o -path '*/launch/*' -o -path '*_msgs/*' -o -name package.xml \) \
      -not -name '*.pyc' | sort
  } | digest
}

make_environment() {
  local python kind
  python=$(choose_python "$way")
  kind="$way $("$python" -V) $root"
  if [ -d "$venv" ] && [ "$(cat "$venv/.rlt-kind" 2>/dev/null)" != "$kind" ]; then
    say "the environment in .venv is of another kind: making it anew"
    rm -rf "$venv" build install
  fi
  if [ ! -f "$venv/.rlt-kind" ]; then
    local options=(--clear)
    [ "$way" = wheels ] || options+=(--system-site-packages)
    stage "virtual environment ($("$python" -V))" venv "$python" -m venv "${options[@]}" "$venv"
    echo "$kind" >"$venv/.rlt-kind"
  fi

  local pip=("$venv/bin/python" -m pip --disable-pip-version-check install --progress-bar off)
  local files=(-r requirements.txt -r requirements-torch.txt -r requirements-test.txt)
  if [ "$way" = wheels ]; then
    files+=(-r requirements-no-ros.txt -c constraints.txt)
  else
    # The ROS installation's compiled modules need the NumPy that they were built with.
    /usr/bin/python3 -c 'import numpy; print("numpy==" + numpy.__version__)' >"$venv/constraints.txt"
    files+=(-c "$venv/constraints.txt")
  fi
  if [ -n "${RLT_TORCH_INDEX:-}" ]; then
    stage "PyTorch from RLT_TORCH_INDEX" torch \
      "${pip[@]}" --no-deps --index-url "$RLT_TORCH_INDEX" -r requirements-torch.txt
  elif ! compgen -G '/dev/nvidia[0-9]*' >/dev/null; then
    say "no NVIDIA GPU here: if the PyTorch download below is large (CUDA), stop it and set RLT_TORCH_INDEX to"
    say "PyTorch's package index of CPU builds (the one its installation page names), then run this again"
  fi
  stage "Python packages (pinned)" packages "${pip[@]}" "${files[@]}"
  [ "$way" != wheels ] ||
    stage "paths in the ROS 2 wheels" relocate "$venv/bin/python" scripts/relocate_ros_wheels.py
}

build_workspace() {
  # shellcheck source=scripts/env.sh
  . scripts/env.sh
  stage "workspace (colcon build)" build "$venv/bin/python" -m colcon --log-base log build \
    --base-paths src --symlink-install --event-handlers console_direct+ \
    --cmake-args -DBUILD_TESTING=OFF "-DPython3_EXECUTABLE=$venv/bin/python"
}

# Other packages are asked for than were installed, or another Python.
outdated() {
  local python
  [ "$(cat "$venv/.rlt-installed" 2>/dev/null)" = "$environment" ] || return 0
  python=$(choose_python "$way") || return 0  # check_tools says what is missing
  [ "$(cat "$venv/.rlt-kind" 2>/dev/null)" != "$way $("$python" -V) $root" ]
}

total=$SECONDS
environment=$(hash_environment)
if outdated; then
  check_tools "$way"
  make_environment
  echo "$environment" >"$venv/.rlt-installed"
fi
[ "${1:-}" != environment ] || exit 0
workspace=$(hash_workspace)
if [ "$(cat install/.rlt-built 2>/dev/null)" != "$workspace" ]; then
  build_workspace
  echo "$workspace" >install/.rlt-built
fi
say "ready ($way, $((SECONDS - total)) s); '. scripts/env.sh' gives the environment to a shell"
