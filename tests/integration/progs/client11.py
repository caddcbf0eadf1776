# SPDX-License-Identifier: Apache-2.0
"""A TLS client on a given pair of libcrypto and libssl, through ctypes: client11.py CRYPTO SSL HOST PORT PATH.
Sends one request (SSL_write), reads the answer to its end (SSL_read_ex where the library has it,
alternating with SSL_read), writes it to stdout."""
import ctypes
import os
import socket
import sys
import time

crypto_path, ssl_path, host, port, path = sys.argv[1:]
ctypes.CDLL(crypto_path, ctypes.RTLD_GLOBAL)
ssl = ctypes.CDLL(ssl_path)
for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
    getattr(ssl, name).restype = ctypes.c_void_p

time.sleep(1)  # the agent places its probes some milliseconds after the first process maps a file

ctx = ctypes.c_void_p(ssl.SSL_CTX_new(ctypes.c_void_p(ssl.TLS_client_method())))
sock = socket.create_connection((host, int(port)), 10)
sock.setblocking(True)
s = ctypes.c_void_p(ssl.SSL_new(ctx))
assert ssl.SSL_set_fd(s, sock.fileno()) == 1
assert ssl.SSL_connect(s) == 1, "handshake failed"
request = f"GET {path} HTTP/1.1\r\nHost: old\r\nConnection: close\r\n\r\n".encode()
assert ssl.SSL_write(s, request, len(request)) == len(request)
buf = ctypes.create_string_buffer(50000)
got = ctypes.c_size_t()
turn = 0
while True:
    turn += 1
    if turn % 2:
        n = ssl.SSL_read(s, buf, len(buf))
    else:
        n = got.value if ssl.SSL_read_ex(s, buf, ctypes.c_size_t(len(buf)), ctypes.byref(got)) else 0
    if n <= 0:
        break
    os.write(1, buf.raw[:n])
ssl.SSL_free(s)
