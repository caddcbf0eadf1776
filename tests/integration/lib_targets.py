# SPDX-License-Identifier: Apache-2.0
"""What the kernel tests boot: machines of this architecture, and others by cross compilation. A target builds
the program and the test programs, finds the libraries that they need, and says how its machine is emulated."""
import os
import pathlib
import re
import shutil

from lib import LIBRARY, PROGS, ROOT, Failed, Skip, binary, check, equal, fact, find_flow, go_build, go_trees, sh, until
from lib_debs import Suite


def exported(objdump, library):
    """Names that a library defines for others."""
    lines = (line.split() for line in sh(objdump, "-T", library).splitlines())
    return {w[-1] for w in lines if len(w) > 5 and w[1][0] in "gwu" and "*UND*" not in w and "*ABS*" not in w}


def judge_library(objdump, library, libc="libc.so.6"):
    """The preloaded library needs the C library alone, and no executable stack; the names that it exports."""
    text = sh(objdump, "-p", library)
    equal(re.findall(r"NEEDED\s+(\S+)", text), [libc], f"{library} needs")
    check(not re.search(r"STACK .*\n.*flags rwx", text), f"{library} wants an executable stack")
    check("TEXTREL" not in text and "RPATH" not in text and "RUNPATH" not in text, f"{library}:", text)
    got = exported(objdump, library)
    check("dlsym" in got and "SSL_write" in got, f"{library} exports", sorted(got))
    return got


STUB = "libstubssl.so"


def build_stub(compiler, top, *more, name=STUB):
    """progs/stubtls.c: the program, the library that it finds where it was made or beside the system's."""
    top.mkdir(exist_ok=True)
    exe, library = top / "stubtls", top / name
    flags = ["-std=c17", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", *more]
    sh(compiler, *flags, "-DLIBRARY", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", library, PROGS / "stubtls.c")
    sh(compiler, *flags, "-o", exe, PROGS / "stubtls.c", library, "-ldl", f"-Wl,-rpath,{top}")
    return exe, library


def judge_stub(what, ports, seen, port=4443):
    """What progs/stubtls.c said on its connections, from these ports."""
    equal(len(ports), 4, f"{what}: connections")
    equal(len(seen), 4, f"{what}: flows")
    for i, at in enumerate(ports, 1):
        f = find_flow(seen, int(at), port)
        equal([bytes(d) for d in f.data], [f"question {i}\n".encode() * i, f"answer {i}\n".encode() * i],
              f"{what}: connection {i}")
        equal(f.end, "fin", f"{what}: how connection {i} ends")


class Native:
    """x86-64: what is built and installed here."""
    arch = ""       # as Debian names it, where it is not this machine's
    kernels = "amd64"
    console, captures = "ttyS0", "ttyS1"

    def __init__(self, t):
        self.t = t

    def emulator(self, console, captures):
        """What comes over the two serial lines goes to these files."""
        return ["qemu-system-x86_64", "-cpu", "max,cx16=off", "-serial", f"file:{console}",
                "-serial", f"file:{captures}"]

    def program(self):
        return binary()

    def preload(self):
        return pathlib.Path(LIBRARY)

    def compile(self, source, libs):
        return self.t.compile(source, libs)

    def stub(self):
        """progs/stubtls.c: the program, its library."""
        return build_stub("gcc", self.t.dir / "stub")

    def go(self):
        """The Go test program, or None without a Go compiler."""
        tree = next(iter(go_trees()), None)
        return tree and go_build(self.t, tree, "plain")

    def busybox(self):
        return shutil.which("busybox")

    def libraries(self, exe):
        """(file, its path on the machine) of all shared libraries and the dynamic linker."""
        return [(pathlib.Path(m.group(1)), m.group(1)) for m in re.finditer(r"(/\S+) \(0x", sh("ldd", exe))]


# What the program is built from, and what it and the test programs run with.
PACKAGES = ("libc6-dev", "linux-libc-dev", "libssl-dev", "libzstd-dev", "libbpf-dev", "libelf-dev", "libevent-dev",
            "libcyaml-dev", "libyaml-dev", "libpcap-dev", "libjansson-dev", "libnghttp2-dev", "libgnutls28-dev",
            "busybox-static")
TOOLCHAIN = """set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER {prefix}gcc)
set(CMAKE_SYSROOT {root})
set(CMAKE_FIND_ROOT_PATH {root})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
"""


class Arm64:
    """arm64, built by a cross compiler against Debian's packages of that architecture."""
    arch = kernels = "arm64"
    console, captures = "ttyAMA0", "ttyS0"
    triplet = "aarch64-linux-gnu"
    tools = (f"{triplet}-gcc", "qemu-system-aarch64")

    def __init__(self, t):
        for tool in self.tools:
            if not shutil.which(tool):
                raise Skip(f"{tool} is not installed (gcc-aarch64-linux-gnu, qemu-system-arm)")
        self.t = t
        debian = Suite("bookworm", "arm64")
        self.root = debian.unpack_all(debian.top, *PACKAGES)
        self.build = ROOT / "build" / "arm64"

    def emulator(self, console, captures):
        return ["qemu-system-aarch64", "-M", "virt", "-cpu", "max,pauth-impdef=on", "-serial", f"file:{console}", "-chardev",
                f"file,id=captures,path={captures}", "-device", "pci-serial,chardev=captures"]

    def program(self):
        self.build.mkdir(parents=True, exist_ok=True)
        toolchain = self.build / "toolchain.cmake"
        toolchain.write_text(TOOLCHAIN.format(prefix=f"{self.triplet}-", root=self.root))
        config = f"{self.root}/usr/lib/{self.triplet}/pkgconfig:{self.root}/usr/share/pkgconfig"
        env = {**os.environ, "PKG_CONFIG_SYSROOT_DIR": str(self.root), "PKG_CONFIG_LIBDIR": config}
        sh("cmake", "-G", "Ninja", "-B", self.build, f"-DCMAKE_TOOLCHAIN_FILE={toolchain}", "-DSSLC_TESTS=OFF",
           "-DSSLC_WERROR=ON", ROOT, env=env, timeout=120)
        sh("ninja", "-C", self.build, "sslcollector", "sslcollector-preload", env=env, timeout=900)
        return self.build / "sslcollector"

    def preload(self):
        """Built by program(). Needs and exports what this machine's does."""
        library = self.build / pathlib.Path(LIBRARY).name
        equal(judge_library(f"{self.triplet}-objdump", library), exported("objdump", LIBRARY), f"{self.arch}: exports")
        return library

    def stub(self):
        return build_stub(f"{self.triplet}-gcc", self.t.dir / f"stub-{self.arch}", f"--sysroot={self.root}")

    def compile(self, source, libs):
        exe = self.t.dir / f"{pathlib.Path(source).stem}-{self.arch}"
        where = ":".join(str(d) for d in self.library_dirs())
        sh(f"{self.triplet}-gcc", f"--sysroot={self.root}", "-std=c17", "-D_GNU_SOURCE", "-O2", "-o", exe,
           PROGS / source, *libs, f"-Wl,-rpath-link={where}", timeout=120)
        return exe

    def go(self):
        tree = next(iter(go_trees()), None)
        return tree and go_build(self.t, tree, "plain", arch="arm64")

    def busybox(self):
        return self.root / "bin/busybox"

    def library_dirs(self):
        return [self.root / d / self.triplet for d in ("lib", "usr/lib")]

    def library(self, name):
        found = [d / name for d in self.library_dirs() if (d / name).exists()]
        check(found, f"no arm64 package has {name}")
        return found[0].resolve()

    def libraries(self, exe):
        todo, got = [exe], {}
        while todo:
            text = sh(f"{self.triplet}-readelf", "-d", todo.pop())
            for name in re.findall(r"\(NEEDED\).*\[(.*)\]", text):
                if name not in got:
                    got[name] = self.library(name)
                    todo.append(got[name])
        return [(f, f"/lib/{name}") for name, f in got.items()]


# Machines ----------------------------------------------------------------------------------------
UP_S, BOOT_S = 120, 900  # until the first "== " on the console, until it is off, beside other tests


def version_key(name):
    return [int(x) for x in re.findall(r"\d+", name)]


def fetch_kernel(t, name, suite, target):
    """(vmlinuz, version) of the suite's newest cloud kernel; its modules are in <test's directory>/name."""
    debian = Suite(suite, target.arch)
    names = [n for n in debian.must("apt-cache", "pkgnames", "linux-").split()
             if re.fullmatch(rf"linux-(image|binary)-\d[\w.+-]*-cloud-{target.kernels}", n)]
    check(names, f"{suite} has no cloud kernel for {target.kernels}")
    # newer suites keep the kernel itself in linux-binary, beside an almost empty linux-image
    package = max(names, key=lambda n: (version_key(n), "binary" in n))
    version = re.search(r"\d[\w.+-]*$", package).group(0)
    modules_of = debian.must("apt-cache", "pkgnames", "linux-modules-").split()
    top = debian.unpack(t.dir / name, package, *(n for n in modules_of if n == f"linux-modules-{version}"))
    found = [f for f in top.rglob("vmlinuz*") if f.is_file() and not f.is_symlink()]
    equal(len(found), 1, f"kernels in {package}")
    return found[0], version


def pack(root, out):
    """The directory as an initramfs."""
    sh("sh", "-c", f"cd {root} && find . | cpio -o -H newc --quiet | gzip -1 > {out}", timeout=60)
    return out


def boot_once(t, name, target, kernel, initramfs, more):
    """(console output, what came over the second serial line); None when the kernel did not come up."""
    console, captures = t.dir / f"{name}.console", t.dir / f"{name}.captures"
    vm = t.spawn(f"qemu-{name}", "nice", *target.emulator(console, captures), "-accel", "tcg,thread=single",
                 "-m", "1024", "-smp", "2", "-nographic", "-no-reboot", "-display", "none", "-monitor",
                 "none", "-nic", "none", "-kernel", kernel, "-initrd", initramfs, "-append",
                 f"console={target.console} panic=-1 oops=panic quiet rdinit=/init {more}")

    def text(path):
        return path.read_text(errors="replace") if path.exists() else ""
    until(lambda: not vm.alive() or "== " in text(console), UP_S, f"{name}: kernel up", step=0.5)
    if "== " not in text(console):
        return None
    until(lambda: not vm.alive(), BOOT_S, f"{name}: virtual machine off", step=0.5)
    return text(console), text(captures)


def boot(t, name, *machine):
    """The emulator now and then fails a kernel before its first process: that is tried again, and said."""
    for attempt in range(3):
        try:
            got = boot_once(t, name, *machine)
        except Failed as e:
            if "kernel up" not in str(e):
                raise
            got = None
        if got:
            return got
        fact(f"{name}: the kernel did not come up in the emulator, attempt {attempt + 1}")
    raise Failed(f"{name}: no boot in 3 attempts")
