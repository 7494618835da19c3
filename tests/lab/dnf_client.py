"""dnf on this machine, as somebody else's: an empty root, and no repository but those that a test names."""

from __future__ import annotations

import subprocess
from pathlib import Path

from goose.lab import lab as labs


class Dnf:
    """dnf with ``directory/root`` for its root."""

    def __init__(self, lab: labs.Lab, directory: Path) -> None:
        self.root = directory / "root"
        self.sources = directory / "repos"
        self.sources.mkdir()
        self.options = [f"--setopt={option}" for option in (
            f"reposdir={self.sources}", f"sslcacert={lab.ca_path()}", f"cachedir={directory}/cache",
            "install_weak_deps=False", "varsdir=/dev/null", f"logdir={directory}",
        )]  # fmt: skip

    def repository(self, name: str, text: str) -> None:
        """Add a repository; ``text``: its section's lines, or a whole .repo file."""
        head = "" if text.lstrip().startswith(("[", "#")) else f"[{name}]\nname={name}\nenabled=1\n"
        (self.sources / f"{name}.repo").write_text(head + text)

    def __call__(self, *words: str, plugins: bool = False, check: bool = True) -> str:
        """Run it; all that it says."""
        # Debian's dnf has a plug-in with a repository of its own.
        command = ["dnf", *([] if plugins else ["--noplugins"]), "--assumeyes", f"--installroot={self.root}"]
        command += ["--releasever=1", "--forcearch=x86_64", *self.options, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done.stdout + done.stderr
