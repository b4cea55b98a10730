# One virtual environment for every script: .venv at the top of the repository.
#
#   . scripts/lib/venv.sh
#   use_venv test demo      # made if missing, extras installed if missing or out of date; sets $VENV
#
# $PYTHON names the interpreter (3.11 or later); without it the first of python3, python3.13, 3.12, 3.11 that is
# new enough. A .venv made by another interpreter than a given $PYTHON is made again.
# An extra is installed again when pyproject.toml or setup.cfg has changed. Two scripts at a time wait for each
# other.
# Sourced by bash with `set -euo pipefail` on.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
VENV=$ROOT/.venv

say() { printf '%s\n' "$*" >&2; }
die() { say "$(basename "$0"): $*"; exit 1; }

# as_root_with_apt: can this process install Debian packages?
as_root_with_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# apt_install PACKAGE...: each by itself, so that one which this Debian does not have costs none of the others.
# Prints the packages that could not be installed.
apt_install() {
    local log package
    log=$(mktemp)
    say "Installing from Debian: $*"
    apt-get update </dev/null >"$log" 2>&1 || tail -n 3 "$log" >&2
    for package in "$@"; do
        if ! DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$package" \
                </dev/null >"$log" 2>&1; then
            tail -n 3 "$log" >&2
            printf '%s\n' "$package"
        fi
    done
    rm -f "$log"
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.11 or later"
        command -v "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11; do
        if new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    die "no Python 3.11 or later found; set PYTHON to one"
}

# Full version and place of the interpreter behind a virtual environment or not.
identity() { "$1" -c 'import sys; print(sys.version, sys.base_prefix)' 2>/dev/null; }

make_venv() {
    local python=$1
    say "Making a virtual environment in .venv ($("$python" --version))"
    if ! "$python" -m venv --clear "$VENV" >/dev/null 2>&1; then
        # Debian keeps `venv` in a package of its own.
        if as_root_with_apt; then apt_install python3-venv >/dev/null; fi
        "$python" -m venv --clear "$VENV" || die "could not make $VENV"
    fi
}

# What an installed extra depends on: a different answer means install again.
fingerprint() { cat "$ROOT/pyproject.toml" "$ROOT/setup.cfg" | cksum; }

use_venv() {
    local python extra stamp wanted missing="" installed=""
    python=$(find_python)
    mkdir -p "$ROOT/.cache"
    exec 9>"$ROOT/.cache/venv.lock"
    if command -v flock >/dev/null; then flock 9; fi

    if [ ! -x "$VENV/bin/python" ] || ! identity "$VENV/bin/python" >/dev/null; then
        make_venv "$python"
    elif [ -n "${PYTHON:-}" ] && [ "$(identity "$VENV/bin/python")" != "$(identity "$python")" ]; then
        make_venv "$python"
    fi

    wanted=$(fingerprint)
    stamp=$VENV/.installed
    mkdir -p "$stamp"
    for extra in "$@"; do
        [ "$(cat "$stamp/$extra" 2>/dev/null)" = "$wanted" ] || missing=1
    done
    if [ -n "$missing" ]; then
        installed=$(IFS=,; echo "$*")
        say "Installing daphne-like[$installed] into .venv"
        "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$ROOT[$installed]" >&2
        for extra in "$@"; do printf '%s\n' "$wanted" >"$stamp/$extra"; done
    fi
    exec 9>&-
}
