# SPDX-License-Identifier: Apache-2.0
"""How connections end. Either end over TLS 1.2; each is one connection from 127.0.0.1.

serve PORT CERT KEY   takes what comes until its end; "got CLIENTPORT BYTES SUM" for each connection
say PORT STEP...      one connection: "port N", then the steps in turn, and "done" after the last:
  send=N     N bytes, those that stand there in the stream of all
  flood      bytes until it is killed
  wait       for a line on stdin; says "waiting"
  close      the socket
  crowd      use up all descriptors;  sparse: give those back
  child=STEP+STEP...   in a child, which then ends without a word; this process closes its socket at
             once, and waits for it
  nap=MS
  die        by SIGKILL
"""
import hashlib
import os
import resource
import signal
import socket
import ssl
import sys
import threading
import time

PIECE = bytes(i * 7 % 251 for i in range(251 * 1000))


def take(conn, port):
    n, digest = 0, hashlib.sha256()
    try:
        while True:
            got = conn.recv(65536)
            if not got:
                break
            n += len(got)
            digest.update(got)
    except OSError:
        pass
    print("got", port, n, digest.hexdigest(), flush=True)


def serve(port, crt, key):
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(crt, key)
    ctx.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_server(("127.0.0.1", int(port)), backlog=64) as listener:
        print("listening", flush=True)
        while True:
            s, (_, client) = listener.accept()
            threading.Thread(target=take, args=(ctx.wrap_socket(s, server_side=True), client), daemon=True).start()


class Speaker:
    def __init__(self, port):
        ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
        self.s = ctx.wrap_socket(socket.create_connection(("127.0.0.1", int(port))))
        self.sent, self.crowd = 0, []
        print("port", self.s.getsockname()[1], flush=True)

    def send(self, n):
        left = n
        while left:
            at = self.sent % len(PIECE)
            part = PIECE[at:at + left]
            self.s.sendall(part)
            self.sent += len(part)
            left -= len(part)

    def child(self, steps):
        pid = os.fork()
        if not pid:
            for step in steps.split("+"):
                self.step(step)
            os._exit(0)
        self.s.close()
        os.waitpid(pid, 0)

    def use_up(self):
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
        try:
            while True:
                self.crowd.append(os.dup(0))
        except OSError:
            pass

    def step(self, step):
        name, _, arg = step.partition("=")
        if name == "send":
            self.send(int(arg))
        elif name == "flood":
            while True:
                self.send(10_000_000)
        elif name == "wait":
            print("waiting", flush=True)
            sys.stdin.readline()
        elif name == "close":
            self.s.close()
        elif name == "crowd":
            self.use_up()
        elif name == "sparse":
            for fd in self.crowd:
                os.close(fd)
        elif name == "child":
            self.child(arg)
        elif name == "nap":
            time.sleep(int(arg) / 1000)
        elif name == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            raise ValueError(step)


if sys.argv[1] == "serve":
    serve(*sys.argv[2:5])
else:
    speaker = Speaker(sys.argv[2])
    for one in sys.argv[3:]:
        speaker.step(one)
    print("done", flush=True)
