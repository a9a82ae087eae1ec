#!/bin/sh
# Qdrant's variables and folder, as the server's file, which is readable to nobody else.
set -eu
umask 077
printf '{"host": "0.0.0.0", "port": 6333, "api_key": "%s", "folder": "/qdrant/storage/collections"}' \
    "$QDRANT__SERVICE__API_KEY" > /tmp/vector-server.json
exec /opt/qdrant/bin/python -m api_server.vector_server /tmp/vector-server.json
