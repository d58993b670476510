#!/bin/bash
# Installs the Debian packages that the tests use: as root only, only what is missing, and says which.
# Never fails: without a package, the tests that use it are skipped and say so.
set -euo pipefail

has() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }

missing=()
has prometheus && has promtool || missing+=(prometheus)
has buildah || missing+=(buildah)
has debootstrap || missing+=(debootstrap)
has ip || missing+=(iproute2)
has openssl || missing+=(openssl)
has initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)

[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "not root: without the Debian packages ${missing[*]} some tests will be skipped"
elif ! has apt-get; then
    echo "no apt-get here: without ${missing[*]} some tests will be skipped"
else
    echo "installing the Debian packages ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # No service may start: the tests start their own servers.
    policy=/usr/sbin/policy-rc.d
    made=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        made=1
    fi
    log=$(mktemp)
    if ! { apt-get -qq update && apt-get -qq install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        echo "apt-get failed; some tests will be skipped. It ended with:"
        tail -n 5 "$log"
    fi
    rm -f "$log"
    [ -z "$made" ] || rm -f "$policy"
fi
exit 0
