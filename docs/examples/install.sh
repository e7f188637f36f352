#!/usr/bin/env bash
# Installs what the tests of the examples run: PostgreSQL and Redis, as root on Debian. The tests start instances of
# their own; what the packages may have started is stopped only by whoever runs the machine. Exit code 1: something
# could not be installed, and is named.
set -uo pipefail
export DEBIAN_FRONTEND=noninteractive

# retry COMMAND...: up to 3 times, for what depends on the network
retry() {
  local try
  for try in 1 2 3; do
    "$@" && return
    echo "try $try of 3 failed: $*"
    [ "$try" = 3 ] || sleep $((try * 10))
  done
  return 1
}

has_postgresql() {
  local program
  for program in /usr/lib/postgresql/*/bin/initdb; do [ -x "$program" ] && return; done
  command -v initdb >/dev/null
}

has_redis() { command -v redis-server >/dev/null; }

missing=()
has_postgresql || missing+=(postgresql)
has_redis || missing+=(redis-server)
[ ${#missing[@]} -gt 0 ] || exit 0

retry apt-get -o DPkg::Lock::Timeout=60 update || true
failed=0
for package in "${missing[@]}"; do
  retry apt-get -o DPkg::Lock::Timeout=60 install --yes --no-install-recommends "$package" ||
    { echo "could not be installed: $package"; failed=1; }
done
exit "$failed"
