"""Which 32-bit packages a 64-bit repository gets beside its own: mash's multilib methods, as sets of names.

The rules are those of python-multilib 1.3, which mash and Koji's dist-repo use, read as they were meant: its
lists are searched as text there (`php` in "php-devel …"), and here they are names. What differs in effect is
told in mash/README.rst.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

METHODS = ("none", "all", "base", "kernel", "devel", "runtime", "file", "yaboot")

# Architecture of a repository -> that of the packages that come in beside.
BIARCH = {"x86_64": "i386", "s390x": "s390", "ppc64": "ppc", "sparc64": "sparc"}
# Architecture of a repository -> architectures of the RPMs that run there natively, the best first.
COMPATIBLE = {
    "i386": ("athlon", "geode", "i686", "i586", "i486", "i386", "noarch"),
    "x86_64": ("amd64", "ia32e", "x86_64", "noarch"),
    "s390": ("s390", "noarch"),
    "s390x": ("s390x", "noarch"),
    "ppc": ("ppc", "noarch"),
    "ppc64": ("ppc64p7", "ppc64", "noarch"),
    "ppc64le": ("ppc64le", "noarch"),
    "sparc": ("sparcv9v", "sparcv9", "sparcv8", "sparc", "noarch"),
    "sparc64": ("sparc64v", "sparc64", "noarch"),
    "aarch64": ("aarch64", "noarch"),
    "armhfp": ("armv7hnl", "armv7hl", "armv6hl", "noarch"),
    "riscv64": ("riscv64", "noarch"),
    "loongarch64": ("loongarch64", "noarch"),
}

_PREFER_64 = frozenset({"gdb", "frysk", "systemtap", "systemtap-runtime", "ltrace", "strace"})
RUNTIME_WHITE = frozenset(
    {"libflashsupport", "libgnat", "lmms-vst", "nspluginwrapper", "perl-libs", "redhat-lsb", "syslinux-extlinux-nonlinux",
     "syslinux-nonlinux", "syslinux-tftpboot", "valgrind", "wine", "yaboot"}
)  # fmt: skip
RUNTIME_BLACK = frozenset({"httpd", "php", "tomcat-native"})
DEVEL_BLACK = frozenset(
    {"dmraid-devel", "httpd-devel", "kdeutils-devel", "mkinitrd-devel", "java-1.5.0-gcj-devel",
     "java-1.6.0-openjdk-devel", "java-1.7.0-icedtea-devel", "java-1.7.0-openjdk-devel", "java-1.8.0-openjdk-devel",
     "php-devel"}
)  # fmt: skip

_LIBRARY = re.compile(r"/(usr/)?lib(64)?/[^/]*\.so\.[^/]*")
# Directories of plug-ins: what lies in one is loaded by a library.
_PLUGIN = re.compile(
    r"/usr/lib(64)?/("
    r"(alsa-lib|dri|gtk-2\.0/(modules|immodules)|krb5/plugins|sasl2|vdpau)/[^/]*"
    r"|gtk-2\.0/[^/]+/(engines|modules|immodules|loaders|printbackends|filesystems)/[^/]*"
    r"|gstreamer-.*/[^/]*"
    r"|(qt[^/]*|kde[^/]*)/plugins/.+/[^/]*"
    r"|qt5/qml/.+/[^/]*"
    r"|gdk-pixbuf-2\.0/[^/]+/loaders/[^/]*"
    r"|xine/plugins/.+/[^/]*"
    r"|oprofile/[^/]*\.so\.[^/]*"
    r"|wine/[^/]*\.so"
    r"|sane/libsane-[^/]*"
    r")"
    r"|(/usr)?/lib(64)?/(security/[^/]*|libnss_[^/]*|libdb-[^/]*)"
    r"|/etc/(lsb-release\.d/[^/]*|ld\.so\.conf\.d/[^/]*\.conf)"
)


@dataclass(frozen=True)
class Lists:
    """What a site adds to the lists above: names."""

    runtime_white: frozenset[str] = RUNTIME_WHITE
    runtime_black: frozenset[str] = RUNTIME_BLACK
    devel_white: frozenset[str] = frozenset()
    devel_black: frozenset[str] = DEVEL_BLACK
    file: tuple[str, ...] = ()
    """Names and patterns of the method `file`."""


def read_list(text: str) -> tuple[str, ...]:
    """The names and patterns in a file for the method `file`: one a word, ``#`` begins a comment."""
    return tuple(word for line in text.splitlines() for word in line.partition("#")[0].split())


@dataclass(frozen=True)
class Candidate:
    """A package that may come in."""

    name: str
    arch: str
    provides: Collection[str]
    """Names alone."""
    files: Iterable[str]


def pick(method: str, package: Candidate, lists: Lists) -> tuple[bool, str]:
    """Whether ``method`` picks ``package``, and by which rule, in words that follow "multilib"."""
    if method == "all":
        return True, "all picks everything"
    if method == "none":
        return False, "none picks nothing"
    if method == "file":
        for pattern in lists.file:
            if fnmatch.fnmatchcase(package.name, pattern):
                return True, f"file: the list has {pattern}"
        return False, "file: the list does not have it"
    if method in ("base", "kernel"):
        return _base(package, method)
    if method == "yaboot":
        picked = package.arch == "ppc" and package.name.startswith("yaboot")
        return picked, "yaboot picks yaboot alone"
    if method == "devel":
        return _devel(package, lists)
    return _runtime(package, lists)


def _kernel(package: Candidate) -> frozenset[str]:
    """Which of `kernel` and `kernel-devel` a kernel's package provides."""
    if not package.name.startswith("kernel"):
        return frozenset()
    return frozenset({"kernel", "kernel-devel"}.intersection(package.provides))


def _base(package: Candidate, method: str) -> tuple[bool, str]:
    if "64" in package.arch:
        if method == "base" and package.name in _PREFER_64:
            return True, "base: the 64-bit one serves both"
        if _kernel(package):
            return True, f"{method}: a 64-bit kernel"
    return False, f"{method} picks 64-bit kernels{' and debuggers' if method == 'base' else ''} alone"


def _runtime(package: Candidate, lists: Lists) -> tuple[bool, str]:
    if package.name in lists.runtime_black:
        return False, "runtime: the black list has it"
    if package.name in lists.runtime_white:
        return True, "runtime: the white list has it"
    picked, why = _base(package, "base")
    if picked:
        return True, f"runtime: {why}"
    if "kernel" in _kernel(package):
        return False, "runtime: a kernel"
    for path in package.files:
        if _LIBRARY.fullmatch(path):
            return True, f"runtime: the library {path}"
        if _PLUGIN.fullmatch(path):
            return True, f"runtime: {path} is loaded by libraries"
    return False, "runtime: it has no library and no plug-in of one"


def _devel(package: Candidate, lists: Lists) -> tuple[bool, str]:
    if package.name in lists.devel_black:
        return False, "devel: the black list has it"
    if package.name in lists.devel_white:
        return True, "devel: the white list has it"
    picked, why = _runtime(package, lists)
    if picked:
        return True, f"devel: {why}"
    if package.name.startswith("ghc-"):
        return False, "devel: Haskell's libraries are static, and 64-bit alone"
    if "kernel-devel" in _kernel(package):
        return False, "devel: a kernel's"
    for end in ("-devel", "-static"):
        if package.name.endswith(end):
            return True, f"devel: its name ends in {end}"
    if package.name.startswith("kernel"):
        for name in sorted(package.provides):
            if name.endswith(("-devel", "-static")):
                return True, f"devel: it provides {name}"
    return False, f"devel: neither -devel nor -static; {why}"
