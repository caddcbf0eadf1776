#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""wget (GnuTLS): several files over one connection, an upload, TLS 1.2, IPv6."""
from role import SRV, SRV6, equal, pattern, roles, sha256

PORT = 443


def play(r):
    r.nginx(("443 ssl", "[::]:443 ssl"))
    bodies = [r.t.www(f"f{i}", size) for i, size in enumerate((1, 70_000, 2_000_000))]
    (r.dir / "up").write_bytes(pattern("up", 400_000))
    r.attach()

    def wget(*args):
        return r.do("client", "wget", "-q", "--no-check-certificate", "-O", "-", *args,
                    env={**r.env, "HOME": str(r.dir)})
    for host, *args in ((SRV,), (SRV, "--secure-protocol=TLSv1_2", "--ciphers=NORMAL:-VERS-TLS1.3"), (f"[{SRV6}]",)):
        got = wget(*args, *(f"https://{host}/f{i}" for i in range(len(bodies))))
        equal(sha256(got), sha256(b"".join(bodies)), "what wget got")
    equal(wget(f"--post-file={r.dir / 'up'}", f"https://{SRV}/post"), b"stored\n", "answer to the upload")
    r.row("wget client", "libgnutls.so.30", "client", PORT, at_least=4)


roles(play, needs=["wget", "nginx"])
