"""The dashboard's server: on this machine only, only GET, and only for pages that it served itself."""

import contextlib
import errno
import ipaddress
import socket
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from jaxkit.errors import UsageError
from jaxkit.reports.site import Reply, Site, answer


def serve(site: Site, *, host: str, port: int, started: Callable[[str], None]) -> None:
    """Serves a site until it is interrupted; `started` is given its address.

    Raises:
        UsageError: a host that is not this machine alone, a port that is taken.
    """
    if not is_loopback(host):
        raise UsageError(
            f"--host: came {host!r}, wanted 127.0.0.1 or ::1: the dashboard has no login; from another machine,"
            f" ssh -L {port}:localhost:{port} HERE"
        )
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET

    def handle_error(server: ThreadingHTTPServer, request: Any, address: Any) -> None:
        # A browser that goes away in the midst of a request is no error.
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            ThreadingHTTPServer.handle_error(server, request, address)

    # Classes, because the library asks for them.
    members: dict[str, Any] = {"address_family": kind, "daemon_threads": True, "handle_error": handle_error}
    server_class = type("Server", (ThreadingHTTPServer,), members)
    try:
        server = server_class((host, port), handler(site))
    except OverflowError:
        raise UsageError(f"--port: came {port}, wanted 0 to 65535") from None
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        why = "is taken" if error.errno == errno.EADDRINUSE else "is not for every user"
        raise UsageError(f"--port: {port} {why}; choose another, 0 for any that is free") from error
    with contextlib.closing(server.socket):
        shown = f"[{host}]" if ":" in host else host
        started(f"http://{shown}:{server.server_address[1]}/")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own; of names only localhost.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("evil.example")
        (True, True, False, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def names_this_machine(host: str | None) -> bool:
    """Whether a request's Host header is one of ours: a page of elsewhere, rebound to us, names its own.

    The port may be another: that of an ssh tunnel.

    Example:
        >>> names_this_machine("localhost:8765"), names_this_machine("[::1]:1"), names_this_machine("evil.example")
        (True, True, False)
    """
    if host is None:
        return False
    name = host[1 : host.find("]")] if host.startswith("[") else host.rsplit(":", 1)[0] if ":" in host else host
    return is_loopback(name)


def handler(site: Site) -> type[BaseHTTPRequestHandler]:
    """The class that carries requests to `site.answer` and replies back."""

    def get(request: BaseHTTPRequestHandler) -> None:
        if not names_this_machine(request.headers.get("Host")):
            send(request, Reply(421, "text/plain", b"this is not the host that was asked for\n"))
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            send(request, answer(site, request.path))

    def send(request: BaseHTTPRequestHandler, reply: Reply) -> None:
        request.send_response(reply.status)
        for name, value in (("Content-Type", reply.kind), ("Content-Length", str(len(reply.body)))):
            request.send_header(name, value)
        request.send_header("X-Content-Type-Options", "nosniff")
        request.send_header("X-Frame-Options", "DENY")
        request.send_header("Cross-Origin-Resource-Policy", "same-origin")
        request.send_header("Referrer-Policy", "no-referrer")
        for name, value in reply.headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(reply.body if request.command != "HEAD" else b"")

    def refuse(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        send(request, Reply(405, "text/plain", b"the dashboard only reads\n", {"Allow": "GET"}))

    others = {f"do_{method}": refuse for method in ("HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
    members: dict[str, Any] = {
        "do_GET": get,
        **others,
        "protocol_version": "HTTP/1.1",
        "server_version": "jaxkit",
        "sys_version": "",
        "timeout": 60,
        "log_message": lambda request, *arguments: None,
    }
    return type("Handler", (BaseHTTPRequestHandler,), members)
