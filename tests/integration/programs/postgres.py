#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL: server and psql, whose TLS begins after eight bytes of plaintext on the same connection."""
import glob
import shutil

from role import SRV, Skip, check, equal, roles, sh

PORT = 5432


def server(r):
    """A cluster of its own in the test's directory; not as root, which the server refuses."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    if not found:
        raise Skip("postgresql is not installed")
    bin_dir = found[-1].rpartition("/")[0]
    home = r.dir / "pg"
    home.mkdir()
    for f, name in zip(r.t.cert(), ("server.crt", "server.key")):
        shutil.copy(f, home / name)
        (home / name).chmod(0o600)
    sh("chown", "-R", "postgres", home)
    user = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
    sh(*user, f"{bin_dir}/initdb", "-D", home / "data", "-A", "trust", "-N", "-U", "postgres", timeout=60)
    with open(home / "data" / "pg_hba.conf", "a") as f:
        f.write("hostssl all all 10.71.1.0/24 trust\n")
    opts = {"ssl": "on", "ssl_cert_file": home / "server.crt", "ssl_key_file": home / "server.key",
            "listen_addresses": SRV, "unix_socket_directories": home, "fsync": "off",
            "shared_buffers": "16MB", "dynamic_shared_memory_type": "mmap"}
    r.on("server", "postgres", *user, f"{bin_dir}/postgres", "-D", home / "data", "-p", PORT,
         *[w for k, v in opts.items() for w in ("-c", f"{k}={v}")])
    r.listening(PORT)


def play(r):
    server(r)
    r.attach()

    def psql(sql, tls="TLSv1.3", data=None):
        env = {**r.preload(), "PGSSLMODE": "require", "PGSSLMAXPROTOCOLVERSION": tls,
               "HOME": str(r.dir)}
        return r.do("client", "psql", "-XAtq", "-h", SRV, "-p", PORT, "-U", "postgres", "-c", sql,
                    env=env, data=data)
    equal(psql("select 'alpha', repeat('x', 5)"), b"alpha|xxxxx\n", "a row")
    psql("create table t (n int, s text)")
    lines = b"".join(b"%d\t%s\n" % (i, b"%064x" % (i * 7919)) for i in range(10000))
    psql("copy t from stdin", data=lines)
    equal(psql("copy (select * from t order by n) to stdout"), lines, "what was copied in")
    big = psql("select string_agg(md5(i::text), '') from generate_series(1, 40000) i", "TLSv1.2")
    equal(len(big), 40000 * 32 + 1, "length of one value of 1.3 MB")
    check(psql("select version from pg_stat_ssl where pid = pg_backend_pid()").strip() == b"TLSv1.3", "version")
    r.row("postgres server", "libssl.so.3", "server", PORT, decode="pgsql", at_least=6)
    r.row("psql client", "libssl.so.3", "client", PORT, decode="pgsql", at_least=6)


roles(play, needs=["psql", "setpriv"])
