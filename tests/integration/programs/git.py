#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""git-remote-https (libcurl over GnuTLS, which reads and writes through functions of its own): clones over
the dumb protocol, HTTP/1.1 and HTTP/2."""
from role import SRV, equal, pattern, roles

H1, H2 = 443, 444


def play(r):
    r.nginx((f"{H1} ssl", f"{H2} ssl http2"))
    src, bare = r.dir / "src", r.dir / "www" / "r.git"
    env = {**r.env, "HOME": str(r.dir), "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}

    def git(*args):
        return r.do("client", "git", "-c", "user.name=x", "-c", "user.email=x@y", "-c", "http.sslVerify=false",
                    "-c", "init.defaultBranch=main", *args, env=env)
    git("init", "-q", src)
    for i in range(3):
        (src / f"f{i}").write_bytes(pattern(f"f{i}", 300_000))
        git("-C", src, "add", ".")
        git("-C", src, "commit", "-qm", f"change {i}")
    bare.parent.mkdir(exist_ok=True)
    git("clone", "-q", "--bare", src, bare)
    git("-C", bare, "update-server-info")
    r.attach()
    for port, version in ((H1, "HTTP/1.1"), (H2, "HTTP/2")):
        to = r.dir / f"clone{port}"
        git("-c", f"http.version={version}", "clone", "-q", f"https://{SRV}:{port}/r.git", to)
        equal(git("-C", to, "rev-parse", "HEAD"), git("-C", src, "rev-parse", "HEAD"), "what was cloned")
        for i in range(3):
            equal((to / f"f{i}").read_bytes() == pattern(f"f{i}", 300_000), True, "file as cloned")
    r.row("git-remote-https client h1", "libgnutls.so.30", "client", H1)
    r.row("git-remote-https client h2", "libgnutls.so.30", "client", H2)


roles(play, needs=["git", "nginx"])
