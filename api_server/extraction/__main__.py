"""The program: one file in, its text on the standard output, in UTF-8.

It limits itself before it looks at the file, and ends when its standard input does: its parent is
gone then. Exit code 1: the last line of the standard error is `{"code": ..., "message": ...}`.
"""

import argparse
import json
import logging
import os
import sys
import threading
import warnings
from pathlib import Path

from api_server.errors import UnreadableFileError
from api_server.extraction.formats import read
from api_server.extraction.limiting import limit
from api_server.extraction.output import Output


def main() -> int:
    """Read one file as the command line says."""
    arguments = _parse()
    limit(mib=arguments.mib, seconds=arguments.seconds)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.disable()
    warnings.simplefilter("ignore")
    try:
        output = Output(sys.stdout.buffer, arguments.max_bytes)
        path, name = Path(arguments.path), arguments.name
        for part in read(path, name, arguments.content_type, arguments.max_bytes):
            output.write(part)
        output.end()
    except UnreadableFileError as exc:
        return _failed(exc.code, exc.message)
    except MemoryError:
        return _failed(
            "invalid_file", f"To read this file takes more than {arguments.mib} MiB of memory."
        )
    except Exception as exc:  # noqa: BLE001 - the edge: what libraries raise at a broken file
        name = type(exc).__name__
        return _failed("invalid_file", f"The file cannot be read: it may be damaged ({name}).")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m api_server.extraction")
    parser.add_argument("path")
    parser.add_argument("name")
    parser.add_argument("--content-type", default="")
    parser.add_argument("--mib", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--max-bytes", type=int, required=True)
    return parser.parse_args()


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(2)


def _failed(code: str, message: str) -> int:
    sys.stderr.write(json.dumps({"code": code, "message": message}) + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
