#!/bin/sh
# As the official one: haproxy under its master, in the foreground.
set -eu
case ${1:-} in
-*) set -- haproxy "$@" ;;
esac
if [ "$1" = haproxy ]; then
    shift
    set -- haproxy -W -db "$@"
fi
exec "$@"
