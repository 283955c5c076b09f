#!/usr/bin/env bash
# README's two commands, word for word, on freshly installed machines:
#
#   tests/machines.sh [--demo] [MACHINE...]     (--demo: without make test)
#
# A machine is a root file system, made by debootstrap, with what README asks for and no more. They
# are made in $MACHINES, half a gigabyte each, and kept for the next time; the logs are beside them.
# It needs root, debootstrap and a mirror of Debian: $MIRROR, or what /etc/apt names.
set -euo pipefail

PROJECT=$(cd "$(dirname "$0")/.." && pwd)
MACHINES=${MACHINES:-${TMPDIR:-/tmp}/bert-machines}
TOOLS=python3,python3-venv,make,git,ca-certificates
# Name, release of Debian, packages. The last one has no compiler: the demo must do without.
KNOWN="bookworm bookworm $TOOLS,gcc,g++
trixie trixie $TOOLS,gcc,g++
testing testing $TOOLS,gcc,g++
bare trixie $TOOLS"
# What is mounted and started for a machine lives in namespaces that the kernel takes down with
# their first process, however it ends. So nothing stays mounted or running, and no rm -rf from
# outside can reach this machine's /dev by way of a folder.
ALONE=(unshare --mount --propagation private --pid --mount-proc --fork --kill-child)

skip() { echo "SKIPPED: $*"; exit 0; }
die() { echo "$*" >&2; exit 2; }

# Runs a command in a machine as a newcomer would: without any variable that a developer has set.
within() {
  local root=$1; shift
  # The first process of a namespace waits for orphans, which bash does: so there is no "exec".
  "${ALONE[@]}" bash -c 'root=$1; shift
    for folder in proc dev sys; do mount --rbind "/$folder" "$root/$folder" || exit; done
    chroot "$root" /usr/bin/env -i HOME=/root PATH=/usr/bin:/bin "$@"; exit' within "$root" "$@" </dev/null
}

remove() {
  local path
  for path; do
    if grep -qF " $(realpath "$path")/" /proc/mounts; then die "something is mounted in $path"; fi
    rm -rf --one-file-system "$path"
  done
}

mirror() {
  local lists
  lists=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null || true)
  sed -nE 's!^(URIs:|deb)( \[.*\])? +(https?://[^ ]+/debian)/?( .*)?$!\3!p' <<<"$lists" |
    grep -m 1 .
}

# Makes a root file system, or takes the one that is there, with a new user and a new checkout.
install() {
  local root=$1 release=$2 packages=$3 file
  if [ "$(cat "$root/installed" 2>/dev/null)" != "$release $packages" ]; then
    remove "$root" || return
    "${ALONE[@]}" debootstrap --variant=minbase --include="$packages" "$release" "$root" "$MIRROR" \
      </dev/null || return
    echo "$release $packages" >"$root/installed"
  fi
  # What this machine needs to reach the network, the new one needs too.
  for file in /etc/{resolv.conf,hosts,pip.conf,ssl/certs/ca-certificates.crt}; do
    if [ -f "$file" ]; then cp --remove-destination "$file" "$root$file" || return; fi
  done
  remove "$root/root" "$root/tmp" || return
  mkdir -m 700 "$root/root" && mkdir -m 1777 "$root/tmp" || return
  git clone --quiet --no-hardlinks "$PROJECT" "$root/root/bert"  # what is committed, no more
}

# Runs a target of make; prints how many seconds it took.
timed() {
  local root=$1 target=$2 start=$SECONDS
  within "$root" bash -c "cd && cd bert && make $target" 2>&1 | tee "$root.$target.log" >&2 || return
  echo $((SECONDS - start))
}

ask() { within "$1" bash -c "cd && cd bert && .venv/bin/python -c '$2'"; }

# Prints a machine's line of the table; fails where one of its commands does.
visit() {
  local name=$1 release=$2 packages=$3 root=$MACHINES/$1 demo tests=- failed=0
  echo "== $name: Debian $release with ${packages//,/ }" >&2
  install "$root" "$release" "$packages" >&2 || { row "$name" "could not be made"; return 1; }
  demo=$(timed "$root" demo) || { row "$name" "make demo failed: $root.demo.log"; return 1; }
  if [ "$demo_only" = no ] && [ "$name" != bare ]; then
    tests=$(timed "$root" test) || failed=1
    tests="${tests:+$tests s, }$(grep -E ' (passed|failed|error)' "$root.test.log" | tail -n 1)"
  fi
  row "$name" "$(ask "$root" 'import platform; print(platform.python_version())')" \
    "$(ask "$root" 'import numpy; print(numpy.__version__)')" "$demo s" \
    "$(ask "$root" 'import json; print(json.load(open("demo_output/metrics.json"))["best"]["dev"]["accuracy"])')" \
    "$tests"
  return $failed
}

row() { printf '%-10s %-8s %-8s %-7s %-8.6s %s\n' "$1" "$2" "${3-}" "${4-}" "${5-}" "${6-}"; }

demo_only=no wanted=" "
for argument; do
  case $argument in
    --demo) demo_only=yes ;;
    *) grep -q "^$argument " <<<"$KNOWN" || die "no machine $argument: $(cut -d ' ' -f 1 <<<"$KNOWN" | xargs)"
       wanted+="$argument " ;;
  esac
done
[ "$(id -u)" = 0 ] || skip "machines are made by root: sudo make test-machines"
command -v debootstrap >/dev/null || skip "debootstrap is missing: apt install debootstrap"
"${ALONE[@]}" true || skip "this user may not make namespaces (in a container: docker run --privileged)"
MIRROR=${MIRROR:-$(mirror)} || skip "/etc/apt names no mirror of Debian: MIRROR=... make test-machines"

mkdir -p "$MACHINES"
exec 9>"$MACHINES/lock"
flock -n 9 || die "another run uses $MACHINES"
table=$(row machine Python NumPy demo dev-acc. tests) failed=0
while read -r name release packages; do
  [[ $wanted = " " || $wanted = *" $name "* ]] || continue
  table+=$'\n'$(visit "$name" "$release" "$packages") || failed=1
done <<<"$KNOWN"
printf '\n%s\n' "$table"
exit $failed
