# shellcheck shell=bash
# Functions of setup.sh, which runs them in the repository's root: messages, stages with progress, and the checks of
# what must be on the machine.

say() { printf 'setup: %s\n' "$*"; }

fail() {
  printf 'setup: error: %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf 'setup:   %s\n' "$@" >&2
  exit 1
}

digest() { sha256sum | cut -d ' ' -f 1; }

# stage TITLE NAME COMMAND...: run it with its output in log/setup-NAME.log and say every 10 s how far it is.
stage() {
  local title=$1 log=$PWD/log/setup-$2.log begin=$SECONDS next=10 pid status=0
  shift 2
  say "$title ..."
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  # shellcheck disable=SC2064 # the process is known now
  trap "kill $pid 2>/dev/null; exit 130" INT TERM
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    if [ $((SECONDS - begin)) -ge $next ]; then
      say "  $((SECONDS - begin)) s: $(grep -v WARNING "$log" | tail -n 1 | cut -c 1-90)"
      next=$((next + 10))
    fi
  done
  wait "$pid" || status=$?
  trap - INT TERM
  if [ $status -ne 0 ]; then
    tail -n 25 "$log" >&2
    fail "'$title' failed with status $status; the whole output is in $log"
  fi
  say "$title: done in $((SECONDS - begin)) s"
}

# `ros` where a ROS 2 installation is sourced and usable, else `wheels`.
choose_way() {
  if [ "${RLT_ROS:-}" = wheels ]; then
    [[ ${PYTHONPATH:-} != */opt/ros/* ]] ||
      fail "RLT_ROS=wheels in a shell where ROS 2 is sourced: the two would mix" "use a shell where it is not sourced"
    echo wheels
  elif [ -n "${ROS_DISTRO:-}" ] && /usr/bin/python3 -c 'import rclpy' 2>/dev/null; then
    echo "ros-$ROS_DISTRO"
  elif compgen -G '/opt/ros/*/setup.bash' >/dev/null; then
    fail "ROS 2 is installed but not sourced" \
      "source it:            . $(compgen -G '/opt/ros/*/setup.bash' | tail -n 1)" \
      "or use wheels anyway: RLT_ROS=wheels make setup"
  else
    echo wheels
  fi
}

# need WHAT PACKAGES...: WHAT is missing; install PACKAGES as root, otherwise say how.
need() {
  local what=$1
  shift
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    fail "$what is missing; install it with:" "sudo apt-get update && sudo apt-get install -y $*"
  fi
  say "$what is missing: apt-get install -y $*"
  stage "apt-get update" apt-update apt-get update
  stage "apt-get install $*" apt-install env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

# The Python that the environment in .venv stands on: a later call without RLT_PYTHON keeps it.
present_python() { sed -n 's/^executable = //p' .venv/pyvenv.cfg 2>/dev/null || true; }

# The Python to build the environment on. The installation's own Python for way `ros`.
choose_python() {
  [ "$1" = wheels ] || { echo /usr/bin/python3; return; }
  local candidate
  for candidate in ${RLT_PYTHON:-$(present_python) python3 python3.12 python3.11 python3.13}; do
    if fits "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

# Compiler, CMake, Python with venv and headers; for way `ros` also what rosdep would have installed.
check_tools() {
  { command -v c++ && command -v make; } >/dev/null || need "a C++ compiler (c++) or make" build-essential
  command -v cmake >/dev/null || need "CMake (cmake)" cmake

  if ! choose_python "$1" >/dev/null; then
    [ -z "${RLT_PYTHON:-}" ] ||
      fail "RLT_PYTHON=$RLT_PYTHON is not a Python 3.11 to 3.13, for which the pinned packages exist" \
        "unset RLT_PYTHON or name another"
    need "a Python of version 3.11 to 3.13 (python3 is $(python3 -V 2>/dev/null || echo absent))" \
      python3.11 python3.11-venv python3.11-dev
    choose_python "$1" >/dev/null || fail "no Python 3.11 to 3.13 is on the PATH even now" "name one with RLT_PYTHON"
  fi

  local python version
  python=$(choose_python "$1")
  version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
  "$python" -c 'import ensurepip, venv' 2>/dev/null || need "the venv module of $python" "$version-venv"
  "$python" -c 'import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' ||
    need "the C headers of $python" "$version-dev"

  [ "$1" = wheels ] || check_ros_packages
}

# What the package.xml files ask of rosdep and setup.sh cannot do without.
check_ros_packages() {
  local module
  for module in colcon:colcon-common-extensions numpy:numpy cv2:opencv yaml:yaml matplotlib:matplotlib psutil:psutil; do
    /usr/bin/python3 -c "import ${module%%:*}" 2>/dev/null ||
      need "the Python module ${module%%:*} ('rosdep install --from-paths src --ignore-src' installs them all)" \
        "python3-${module##*:}"
  done
}
