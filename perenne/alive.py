"""`python -m perenne.alive [PORT]`: whether the node of this container lives, for a health check. Exit code 0 or 1.

It asks /livez in plain HTTP, and where that is not understood, over TLS: whose certificate the node shows does not
matter to somebody who asks his own loopback. PORT: PERENNE_HTTP__PORT, or 8080, when it is not given. Nothing but the
standard library is imported, so that it is quick.
"""

import http.client
import os
import ssl
import sys


def alive(port: int, timeout: float = 4.0) -> str:
    """Return why the node does not live, or does not answer; empty when it lives."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    why = ""
    for way in (
        http.client.HTTPConnection("127.0.0.1", port, timeout=timeout),
        http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout, context=context),
    ):
        try:
            way.request("GET", "/livez")
            answer = way.getresponse()
            said = answer.read().decode(errors="replace").strip()
        except (OSError, http.client.HTTPException) as error:
            why = why or f"127.0.0.1:{port} does not answer: {error}"
            continue
        finally:
            way.close()
        return "" if answer.status == 200 else f"{answer.status}: {said}"
    return why


if __name__ == "__main__":
    given = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("PERENNE_HTTP__PORT", "8080")
    if reason := alive(int(given)):
        sys.stderr.write(f"{reason}\n")
        sys.exit(1)
