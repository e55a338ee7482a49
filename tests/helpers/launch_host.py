"""A machine on which the launch scripts meet stand-ins for what they call."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
HELPERS = Path(__file__).parent
TRAIN = ["--config=configs/a.py", "--workdir=my run"]

# A part of `bioclip2`: a training that goes on until SIGTERM comes.
UNTIL_TOLD = """
trap 'touch saved; exit 0' TERM
echo $$ >started.part && mv started.part started
for _ in {1..3000}; do /bin/sleep 0.02; done
"""


_SILENT = ("sleep", "nvidia-smi", "uname")

# The Python of an environment: complete after pip, and able to look into the buckets of BUCKETS.
_PYTHON = f"""
case "$1" in
  */missing.py) [ -f "$0.complete" ] || echo a-package ;;
  */bucket.py) exec {sys.executable} "$1" "$2" "BUCKETS/${{3#gs://}}" ;;
  -m) touch "$0.complete" ;;
esac
"""


class Host:
    """A checkout, an environment without the packages, and stand-ins on the PATH.

    A stand-in notes its call in `calls` and then plays the part that the test gives it.
    """

    def __init__(self, folder: Path):
        self.folder, self.bin, self.calls_file = folder, folder / "bin", folder / "calls"
        self.checkout = folder / "a checkout"
        shutil.copytree(ROOT / "launch", self.checkout / "launch")
        for name in ("requirements.txt", "pyproject.toml"):
            shutil.copy(ROOT / name, self.checkout)
        self.environment(folder / "venv")
        self.stand_in("nvidia-smi", "echo '580.95.05, 9.0'")
        self.stand_in("sleep", "exec /bin/sleep 0.02")
        self.calls_file.write_text("")

    def environment(self, folder: Path) -> None:
        """Whose Python notes what is asked of it; gs:// is the folder `buckets`."""
        (folder / "bin").mkdir(parents=True)
        here = '$(dirname "${BASH_SOURCE[0]}")'  # a copy of it is another environment
        (folder / "bin" / "activate").write_text(f'PATH="{here}:$PATH"\n')
        python = _PYTHON.replace("BUCKETS", str(self.folder / "buckets"))
        self.stand_in("python", python, folder / "bin")

    def stand_in(self, name: str, part: str, folder: Path | None = None) -> None:
        """A command that notes its call, unless of a script of ours, and plays `part`, bash."""
        path = (folder or self.bin) / name
        path.parent.mkdir(exist_ok=True)
        # One write, since several may note at once.
        note = f'printf -v line "%q " {name} "$@"; echo "$line" >>\'{self.calls_file}\''
        note = "" if name in _SILENT else f'case "${{1:-}}" in *.py) ;; *) {note} ;; esac'
        path.write_text(f"#!/bin/bash\n{note}\n{part}\n")
        path.chmod(0o755)

    def stand_in_program(self, name: str) -> None:
        """A command that notes its call and is then tests/helpers/stand_in_NAME.py."""
        self.stand_in(name, f'exec "{sys.executable}" -IS "{HELPERS}/stand_in_{name}.py" "$@"')

    def start(self, script: str, *arguments: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            # A suite in the background has Ctrl-C ignored, which a shell cannot take back.
            [
                shutil.which("env"),
                "--default-signal=INT",
                "bash",
                str(self.checkout / "launch" / script),
            ]
            + list(arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={
                "PATH": f"{self.bin}:{os.environ['PATH']}",
                "HOME": str(self.folder),
                "TMPDIR": str(self.folder),
                "VENV": str(self.folder / "venv"),
            }
            | environment,
        )

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        process = self.start(script, *arguments, **environment)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def calls(self, *names: str) -> list[list[str]]:
        """The words of the calls so far, of these commands if any are named."""
        found = [shlex.split(line) for line in self.calls_file.read_text().splitlines()]
        return [words for words in found if not names or words[0] in names]

    def wait_for(self, file: str) -> None:
        for _ in range(1500):
            if (self.folder / file).exists():
                return
            time.sleep(0.02)
        raise AssertionError(f"{file} was never made; {self.calls()}")


def saves(*steps: int) -> str:
    """A part of `bioclip2`: checkpoints of these steps."""
    return "".join(f"mkdir -p 'my run/checkpoints/{step}'; " for step in steps)


def is_usage_error(done: subprocess.CompletedProcess) -> bool:
    return done.returncode == 2 and len(done.stderr.splitlines()) == 1 and not done.stdout
