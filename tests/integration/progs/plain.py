# SPDX-License-Identifier: Apache-2.0
"""Many conversations without TLS at once, both ends of each here; twice. Each time one line: KiB of anonymous memory
while they last."""
import re
import resource
import socket

PAIRS, TURNS = 600, 15
WORDS = [b"250-hello from the one who answers\r\n" * 28, b"NOOP hello from the one who asks\r\n" * 30]


def pair(listener):
    a = socket.create_connection(listener.getsockname())
    return a, listener.accept()[0]


def turn(pairs):
    for ends in pairs:
        for i in (0, 1):
            ends[i].sendall(WORDS[i])
            left = len(WORDS[i])
            while left:
                left -= len(ends[1 - i].recv(left))


resource.setrlimit(resource.RLIMIT_NOFILE, (4 * PAIRS, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
with socket.create_server(("127.0.0.1", 0)) as listener:
    for _ in range(2):
        pairs = [pair(listener) for _ in range(PAIRS)]
        for _ in range(TURNS):
            turn(pairs)
        print(re.search(r"RssAnon:\s*(\d+)", open("/proc/self/status").read()).group(1), flush=True)
        for ends in pairs:
            for s in ends:
                s.close()
