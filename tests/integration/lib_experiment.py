# SPDX-License-Identifier: Apache-2.0
"""Experiments with OpenSSL libraries that are not the system's, and what is kept of them (agent/sites/trial_store.c)."""
import hashlib
import os
import pathlib
import subprocess

from lib import binary, check, equal

RESULT_SIZE, WHY = 160, 96  # the result; it ends with why there is none


def experiment(ssl, loader=(), **env):
    """The result, as the agent's own child finds it when it is started by that loader."""
    with open(ssl, "rb") as f:
        p = subprocess.Popen([*loader, binary(), "record-trial"], stdout=subprocess.PIPE, close_fds=False,
                             env={**os.environ, **env},
                             preexec_fn=lambda: (os.dup2(f.fileno(), 3), os.set_inheritable(3, True)))
        result = p.communicate(timeout=60)[0]
    equal((p.returncode, len(result)), (0, RESULT_SIZE), f"{ssl}: experiment")
    why = result[-WHY:].rstrip(b"\0").decode()
    check(not why, f"{ssl}: no place where records pass: {why}")
    return result


def digest(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes())


def kept_parts(ssl, result):
    """(name of the file, what comes before the processor's digest in it, what comes behind it); then comes a sum of
    all that."""
    return digest(ssl).hexdigest(), b"SSLCtri1" + digest(binary()).digest(), digest(ssl).digest() + result


def this_processor():
    lines = pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines(True)
    return hashlib.sha256("".join(x for x in lines if x.startswith(("model", "flags"))).encode()).digest()


def keep(state, ssl, result):
    name, before, behind = kept_parts(ssl, result)
    data = before + this_processor() + behind
    (state / "sites").mkdir(parents=True, mode=0o700, exist_ok=True)
    (state / "sites" / name).write_bytes(data + hashlib.sha256(data).digest())
