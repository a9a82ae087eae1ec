#!/bin/sh
# Removes the data directory of `make local`, unless something still runs in it.
set -eu
dir=${DATA_DIR:-.local}
if [ ! -d "$dir" ]; then
    echo "$dir does not exist; nothing to remove"
    exit 0
fi
if [ ! -e "$dir/lock" ]; then
    echo "error: $dir does not look like a data directory of make local (it has no file 'lock'); not removed" >&2
    exit 1
fi
if ! flock --nonblock "$dir/lock" true; then
    echo "error: a make local (process $(cat "$dir/lock")) still uses $dir; stop it first" >&2
    exit 1
fi
rm -rf "$dir"
echo "removed $dir"
