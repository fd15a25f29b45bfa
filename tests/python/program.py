"""The inkwash program, as the scripts call it."""

import os
import subprocess
import sys
from pathlib import Path


class Failure(Exception):
    """What a check found."""


class Inkwash:
    """A built program."""

    def __init__(self, binary: Path) -> None:
        if not binary.is_file():
            sys.exit(f"{binary}: no such file; build it with `cargo build --release`")
        self.binary = binary.absolute()

    def __call__(self, *arguments: str | Path) -> None:
        """Runs a command, whose output is shown where it fails."""
        # Mesa wants the variable, and says so on a bare server.
        environment = {"XDG_RUNTIME_DIR": "/tmp"} | os.environ
        command = [str(self.binary), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode != 0:
            raise Failure(f"{' '.join(command)}\nexited with {done.returncode}\n{done.stdout}{done.stderr}".rstrip())
