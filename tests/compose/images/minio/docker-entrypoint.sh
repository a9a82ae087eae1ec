#!/bin/bash
# `server FOLDER --address :PORT` and MINIO_ROOT_USER, MINIO_ROOT_PASSWORD, as MinIO takes them.
set -euo pipefail
folder='' address=:9000
if [[ ${1:-} != server ]]; then
    exec "$@"
fi
shift
while (($#)); do
    case $1 in
    --address) address=$2 && shift 2 ;;
    -*) echo "this stand-in does not know $1" >&2 && exit 2 ;;
    *) folder=$1 && shift ;;
    esac
done
: "${MINIO_ROOT_USER:?is not set}" "${MINIO_ROOT_PASSWORD:?is not set}"
# In the environment, not on the command line, which everybody on the host can read; a list, as CSV.
export RCLONE_AUTH_KEY="\"$MINIO_ROOT_USER,$MINIO_ROOT_PASSWORD\""
exec rclone serve s3 --config /tmp/rclone.conf --cache-dir /tmp/rclone --addr "$address" "$folder"
