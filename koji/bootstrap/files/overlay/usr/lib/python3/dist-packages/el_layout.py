"""Enterprise Linux's places for Python modules, on Debian's Python.

Add-on modules go to site-packages below /usr/lib and /usr/lib64, and are found there. Virtual
environments never read this file, because Debian's dist-packages is not on their path.
"""

import site
import sys
import sysconfig

_LIB = "lib64" if sys.maxsize > 2**32 else "lib"
_STANDARD = "{installed_base}/lib/python{py_version_short}"
_PURE = "{base}/lib/python{py_version_short}/site-packages"
_PLATFORM = "{platbase}/" + _LIB + "/python{py_version_short}/site-packages"

for _scheme in ("posix_prefix", "posix_local", "deb_system"):
    _paths = sysconfig._INSTALL_SCHEMES.get(_scheme)  # type: ignore[attr-defined]
    if _paths:
        _paths.update(stdlib=_STANDARD, platstdlib=_STANDARD, purelib=_PURE, platlib=_PLATFORM,
                      scripts="{base}/bin", data="{base}")

# What distutils asks; Python's own modules stay below /usr/lib, as the schemes above say.
sys.platlibdir = _LIB

for _directory in (f"/usr/{_LIB}", "/usr/lib"):
    site.addsitedir(f"{_directory}/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages")
