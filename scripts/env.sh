# shellcheck shell=bash
# The environment of the built workspace. Source it from bash: `. scripts/env.sh`; to run one command in it, use
# scripts/with_env.sh. What the caller has already set (ROS_DOMAIN_ID, ROS_AUTOMATIC_DISCOVERY_RANGE, the profile,
# OMP_NUM_THREADS, the malloc settings) stays.

_rlt_root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
_rlt_venv=$_rlt_root/.venv
if [ ! -f "$_rlt_venv/.rlt-kind" ]; then
  echo "rlt: there is no environment in $_rlt_venv yet; run 'make setup' first" >&2
  # shellcheck disable=SC2317 # the exit is for a script that was run, not sourced
  return 1 2>/dev/null || exit 1
fi

# Put $2 in front of the list in variable $1, once.
_rlt_prepend() {
  case ":${!1:-}:" in
    *":$2:"*) ;;
    *) export "$1=$2${!1:+:${!1}}" ;;
  esac
}

export VIRTUAL_ENV=$_rlt_venv
export COLCON_PYTHON_EXECUTABLE=$_rlt_venv/bin/python
_rlt_prepend PATH "$_rlt_venv/bin"

# Without a ROS 2 installation the virtual environment itself is the ROS prefix.
if [[ $(<"$_rlt_venv/.rlt-kind") == wheels* ]]; then
  _rlt_prepend AMENT_PREFIX_PATH "$_rlt_venv"
  _rlt_prepend CMAKE_PREFIX_PATH "$_rlt_venv"
  for _rlt_libs in "$_rlt_venv"/lib/python3.*/site-packages/ros_*.libs "$_rlt_venv/lib"; do
    _rlt_prepend LD_LIBRARY_PATH "$_rlt_libs"
  done
  # Says that LD_LIBRARY_PATH is right; the wheels would otherwise run every Python process a second time to set it.
  export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
fi

if [ -f "$_rlt_root/install/local_setup.bash" ]; then
  case $- in *u*) _rlt_nounset=1 ;; *) _rlt_nounset= ;; esac
  set +u # colcon's scripts read unset variables
  # shellcheck source=/dev/null
  . "$_rlt_root/install/local_setup.bash"
  [ -z "$_rlt_nounset" ] || set -u
fi

export ROS_AUTOMATIC_DISCOVERY_RANGE=${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}
# The first name is read up to Jazzy, the second from Kilted.
_rlt_profile=$_rlt_root/src/rlt_bringup/config/fastdds.xml
export FASTRTPS_DEFAULT_PROFILES_FILE=${FASTRTPS_DEFAULT_PROFILES_FILE:-$_rlt_profile}
export FASTDDS_DEFAULT_PROFILES_FILE=${FASTDDS_DEFAULT_PROFILES_FILE:-$_rlt_profile}
# Keep freed image buffers instead of giving them back to the kernel and faulting them in again for every frame.
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-67108864}
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-134217728}
export MALLOC_TOP_PAD_=${MALLOC_TOP_PAD_:-67108864}
# One process per node, one thread per process: more threads on busy cores are several times slower.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

unset _rlt_root _rlt_venv _rlt_libs _rlt_nounset _rlt_profile
unset -f _rlt_prepend
