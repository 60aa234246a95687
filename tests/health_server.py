"""A web server that gives every request the same answer, for tests of what asks after the health of servers."""

from http.server import BaseHTTPRequestHandler


def answering(status: int = 200) -> type[BaseHTTPRequestHandler]:
    """Make the handler of a server that answers with a status and says no more."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler
