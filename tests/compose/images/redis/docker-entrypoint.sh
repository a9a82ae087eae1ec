#!/bin/sh
# As the official one: options alone are those of redis-server.
set -eu
case ${1:-} in
-* | *.conf) set -- redis-server "$@" ;;
esac
exec "$@"
