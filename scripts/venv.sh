#!/bin/sh
# Makes a virtual environment and installs requirements into it.
# usage: venv.sh PYTHON VENV REQUIREMENTS [PIP OPTION...]
set -eu
python=$1 venv=$2 requirements=$3
shift 3

if ! command -v "$python" >/dev/null 2>&1; then
    echo "error: $python was not found. Install Python 3.11 or newer, or name one: make PYTHON=python3.12 ..." >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $("$python" --version) is too old; 3.11 or newer is needed. Name another: make PYTHON=python3.12 ..." >&2
    exit 1
fi
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then # none yet, or one cut short
    rm -rf "$venv"
    echo "making $venv with $("$python" --version)"
    if ! "$python" -m venv "$venv"; then
        rm -rf "$venv"
        echo "error: $python cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2
        exit 1
    fi
fi
echo "installing $requirements"
if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" -r "$requirements"; then
    echo "error: the packages of $requirements could not be installed; the lines above say why. Check the network and the disk, then run the same command again." >&2
    exit 1
fi
