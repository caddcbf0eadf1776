#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: Apache-2.0
"""MariaDB: server with a thread per connection and with a pool of threads (a connection moves between
threads), and its client. A plaintext greeting comes before TLS on the same connection."""
import shutil

from role import SRV, check, equal, roles, sh

PER_CONNECTION, POOL = 3306, 3307
CLIENTS = 8


def server(r, name, port, *args):
    crt, key = (r.dir / "sql.crt", r.dir / "sql.key")
    for src, dst in zip(r.t.cert(), (crt, key)):
        shutil.copy(src, dst)
        shutil.chown(dst, "mysql")
    data = r.dir / name
    tmp = r.dir / f"{name}.tmp"
    tmp.mkdir()
    shutil.chown(tmp, "mysql")
    sh("mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--tmpdir={tmp}", "--user=mysql", "--skip-test-db",
       "--auth-root-authentication-method=normal", "--innodb-log-file-size=4M", timeout=60)
    r.on("server", name, "mariadbd", "--no-defaults", f"--datadir={data}", f"--tmpdir={tmp}",
         "--user=mysql", f"--socket={data}/sock", f"--pid-file={data}/pid", f"--port={port}", f"--bind-address={SRV}",
         f"--ssl-cert={crt}", f"--ssl-key={key}", "--skip-name-resolve", "--innodb-log-file-size=4M",
         "--innodb-buffer-pool-size=8M", "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin", *args)
    r.listening(port, timeout=30)
    sh("mariadb", "--no-defaults", f"--socket={data}/sock", "-uroot", "-e",
       "create database d; create user u@'10.71.1.%'; grant all on d.* to u@'10.71.1.%'")


def client(port):
    return ("mariadb", "--no-defaults", "-h", SRV, "-P", str(port), "-uu", "--ssl", "-N", "-B", "--raw", "d")


def talk(r, port):
    def sql(text, *args):
        return r.do("client", *client(port), *args, env=r.preload(), data=text.encode())
    cipher = sql("show status like 'Ssl_version'")
    check(cipher.startswith(b"Ssl_version\tTLSv1."), "version:", cipher)
    equal(sql("select 'alpha', repeat('x', 200000)"), b"alpha\t" + b"x" * 200000 + b"\n", "a large row")
    values = ",".join(f"({i}, '{i * 7919:064x}')" for i in range(5000))
    rows = "".join(f"{i}\t{i * 7919:064x}\n" for i in range(5000))
    got = sql(f"create table t (n int, s text); insert into t values {values}; select * from t order by n")
    equal(got, rows.encode(), "what was inserted")
    sql("select repeat('y', 100000)", "--tls-version=TLSv1.2")
    many = [r.on("client", f"sql{i}", *client(port), "-e",
                 ";".join(f"select {i}, {n}, repeat('{i}', {n * 100 + i})" for n in range(40)),
                 env=r.preload()) for i in range(CLIENTS)]
    for i, p in enumerate(many):
        equal(p.wait(30), 0, f"client's status: {p.err()}")
        equal(p.out(), "".join(f"{i}\t{n}\t{str(i) * (n * 100 + i)}\n" for n in range(40)), "answers")


def play(r):
    server(r, "per-connection", PER_CONNECTION, "--thread-handling=one-thread-per-connection")
    server(r, "pool", POOL, "--thread-handling=pool-of-threads", "--thread-pool-size=3")
    r.attach()
    talk(r, PER_CONNECTION)
    talk(r, POOL)
    for port, how in ((PER_CONNECTION, "thread per connection"), (POOL, "pool of threads")):
        r.row(f"mariadbd server, {how}", "libssl.so.3", "server", port, decode="mysql", at_least=4 + CLIENTS)
        r.row(f"mariadb client, {how}", "libssl.so.3", "client", port, decode="mysql", at_least=4 + CLIENTS)


roles(play, needs=["mariadbd", "mariadb-install-db", "mariadb"])
