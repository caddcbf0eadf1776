# SPDX-License-Identifier: Apache-2.0
"""Programs that no probe sits on: a load generator that costs what a client on another machine would cost, a
server to compare with.

Probes sit on library files, found by what they define; a copy under another name is found too. So the
copy is linked anew, from the static library, with its functions under other names, and the program's
own table of names is changed alike."""
import pathlib
import re
import shutil

from lib import Skip, check, sh

ORIGINAL, COPY = "libssl.so.3", "libsxl.so.3"  # of one length: names are replaced in place


def static_library(name):
    path = pathlib.Path(sh("gcc", f"-print-file-name={name}").strip())
    if not path.is_absolute():
        raise Skip(f"{name} is not installed (libssl-dev)")
    return path


def renamed_library(where, original, kept):
    """libssl with SXL_ for SSL_, in `where`, but for `kept`. What libcrypto.so keeps to itself comes from libcrypto.a."""
    names = re.findall(r" T (SSL_\w+)@@", sh("nm", "-D", "--defined-only", original))
    check("SSL_read" in names, f"{original} does not define SSL_read")
    check(not {"SSL_read", "SSL_write"} & kept, "cannot be renamed:", *kept)
    (where / "names").write_text("".join(f"{n} SXL_{n[4:]}\n" for n in names if n not in kept))
    (where / "versions").write_text("OPENSSL_3.0.0 { *; };\n")
    sh("objcopy", f"--redefine-syms={where}/names", static_library("libssl.a"), where / "libsxl.a")
    sh("gcc", "-shared", "-s", "-o", where / COPY, "-Wl,-z,defs", "-Wl,-Bsymbolic", f"-Wl,-soname,{COPY}",
       f"-Wl,--version-script={where}/versions", "-Wl,--whole-archive", where / "libsxl.a",
       "-Wl,--no-whole-archive", "-lcrypto", static_library("libcrypto.a"), timeout=60)


def unprobed(t, program):
    """(a copy of `program` that uses such a library, the environment it needs)"""
    original = shutil.which(program)
    lib = re.search(rf"{re.escape(ORIGINAL)} => (\S+)", sh("ldd", original))
    if not lib:
        raise Skip(f"{program} does not use {ORIGINAL}")
    where = t.dir / "unprobed"
    where = where / program
    where.mkdir(parents=True, exist_ok=True)
    exe = where / program
    code = pathlib.Path(original).read_bytes()
    exe.write_bytes(code.replace(f"{ORIGINAL}\0".encode(), f"{COPY}\0".encode()).replace(b"\0SSL_", b"\0SXL_"))
    exe.chmod(0o755)
    # a name that is the end of another one in the table stays
    kept = set(re.findall(r" U (SSL_\w+)", sh("nm", "-D", exe)))
    if not (where / COPY).exists():
        renamed_library(where, lib.group(1), kept)
    return exe, {"LD_LIBRARY_PATH": str(where)}
