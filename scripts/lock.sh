#!/bin/sh
# Writes requirements.txt, requirements-dev.txt and requirements-load.txt from pyproject.toml, and the sets of the peers, of MAX
# and of tests/extras, with hashes.
set -eu
tool=$(mktemp -d)
trap 'rm -rf "$tool"' EXIT
python3 -m venv "$tool"
"$tool/bin/pip" install --quiet --disable-pip-version-check uv
compile() {
    "$tool/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-annotate --no-header "$@"
}
compile pyproject.toml -o requirements.txt
compile pyproject.toml --group dev -o requirements-dev.txt
compile pyproject.toml --group load -c requirements-dev.txt -o requirements-load.txt
compile tests/extras/requirements.in -c requirements-dev.txt -o tests/extras/requirements.txt
for wanted in benchmarks/peer_locks/*.in tests/max/*.in; do
    compile "$wanted" -o "${wanted%.in}.txt"
done
