# SPDX-License-Identifier: Apache-2.0
"""HTTPS server of Python's own http.server, HTTP/1.1, a thread a connection: ADDR PORT CERT KEY [WORKERS]

GET /NAME-SIZE answers SIZE bytes of pattern NAME; POST answers the body's length and hash. With WORKERS
it forks that many processes which accept from one socket. :: listens for IPv4 too. Secrets go to
$SSLKEYLOGFILE.
"""
import hashlib
import http.server
import os
import signal
import socket
import ssl
import sys

addr, port, crt, key = sys.argv[1:5]
workers = int(sys.argv[5]) if len(sys.argv) > 5 else 0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        name, _, size = self.path.strip("/").rpartition("-")
        self.answer(hashlib.shake_128(name.encode()).digest(int(size or 0)))

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(f"{len(body)} {hashlib.sha256(body).hexdigest()}\n".encode())

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    address_family = socket.AF_INET6 if ":" in addr else socket.AF_INET
    request_queue_size = 256

    def finish_request(self, request, client_address):
        request.do_handshake()
        super().finish_request(request, client_address)

    def handle_error(self, request, client_address):
        print("error", client_address, sys.exc_info()[1], flush=True)


ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
ctx.load_cert_chain(crt, key)
ctx.keylog_filename = os.environ.get("SSLKEYLOGFILE")
server = Server((addr, int(port)), Handler, bind_and_activate=False)
server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if ":" in addr:
    server.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
server.server_bind()
server.server_activate()
server.socket = ctx.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print("listening", flush=True)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(max(0, workers - 1)):
    if os.fork() == 0:
        break
server.serve_forever()
