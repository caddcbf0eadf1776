#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""A process shakes hands, and another one made from it goes on with a copy of the TLS object: reading first or
writing first, after its parent has read, or has freed its object, in a grandchild, and both at once. Each of
them first without probes around the calls that move data."""
import pathlib
import re
import shutil
import sys
import time

from role import PROGS, PY, SRV, Skip, equal, roles, sh

sys.path.insert(0, str(PROGS))
from forks import HOW, SIZE, pattern  # noqa: E402

PORT, ROUNDS = 7100, 2
SETTLED_S = 2.5  # longer than calls around records are probed, too, on a file that is new (AROUND_FIRST_NS)


def python_libssl():
    found = re.search(r"(/\S*/libssl\.so\.3\S*)", sh(PY, "-c", "import _ssl; print(open('/proc/self/maps').read())"))
    if not found:
        raise Skip("Python does not use libssl.so.3")
    return pathlib.Path(found.group(1)).resolve()


def start(r, libssl, port, how):
    """With a copy of the library: what other processes do with theirs puts no probes on this one."""
    own = r.dir / f"lib{port}"
    own.mkdir()
    shutil.copy(libssl, own / "libssl.so.3")
    s = r.on("server", f"forks{port}", PY, "-u", PROGS / "forks.py", "server", SRV, port, *r.t.cert(), how,
             env={**r.env, "LD_LIBRARY_PATH": str(own)})
    s.wait_line("listening", where="out")
    return s


def play(r):
    libssl = python_libssl()
    servers = [start(r, libssl, port, how) for port, how in enumerate(HOW, PORT)]
    r.attach()
    time.sleep(SETTLED_S)
    for i in range(ROUNDS):
        for port, how in enumerate(HOW, PORT):
            seed = f"{how} {i}"
            said = pattern(seed, SIZE)[::-1] if how != "splits" else pattern("split", SIZE)
            got = r.do("client", PY, PROGS / "forks.py", "client", SRV, port, seed, env=r.env)
            equal(got, b"hello\n" * (how == "greets") + said, f"{how}: what the client got")
    for s, (port, how) in zip(servers, enumerate(HOW, PORT)):
        equal(s.out().count(f"{how} 0"), ROUNDS, f"children that did their work: {s.out()}")
        r.row(f"a child process {how}", "libssl.so.3", "server", port, at_least=ROUNDS)


roles(play)
