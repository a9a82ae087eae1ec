"""Asks one URL from inside a gateway: `ask.py METHOD URL BODY`, the key on standard input.

Prints the body, and the status on a last line (000: nobody answered).
"""

import sys
import urllib.error
import urllib.request

LONGEST_SECONDS = 180
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Docker may hand a proxy to each container; the front is not behind it."""


def main() -> None:
    """Ask, print."""
    method, url, body = sys.argv[1:4]
    headers = {
        "Authorization": f"Bearer {sys.stdin.readline().strip()}",
        "Content-Type": "application/json",
    }
    request = urllib.request.Request(  # noqa: S310 - the front's URL
        url, data=body.encode() or None, headers=headers, method=method
    )
    status = "000"
    text = ""
    try:
        with DIRECTLY.open(request, timeout=LONGEST_SECONDS) as response:
            status, text = str(response.status), response.read().decode()
    except urllib.error.HTTPError as exc:
        status, text = str(exc.code), exc.read().decode()
    except OSError as exc:
        text = str(exc)
    print(f"{text}\n{status}")


main()
