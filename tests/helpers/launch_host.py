"""A machine on which the launch scripts meet stand-ins for what they call."""

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRAIN = ["--config=configs/a.py", "--workdir=my run"]

# A part of `bioclip2`: a training that goes on until SIGTERM comes.
UNTIL_TOLD = """
trap 'touch saved; exit 0' TERM
echo $$ >started.part && mv started.part started
for _ in {1..3000}; do /bin/sleep 0.02; done
"""


class Host:
    """A checkout, an environment that needs no installation, and stand-ins on the PATH.

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
        self.stand_in("sleep", 'exec /bin/sleep "0.0$1"')
        self.calls_file.write_text("")

    def environment(self, folder: Path) -> None:
        """Whose Python only notes what is asked of it."""
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "activate").write_text("")
        self.stand_in("python", "", folder / "bin")

    def stand_in(self, name: str, part: str, folder: Path | None = None) -> None:
        """A command that notes its call and then plays `part`, lines of bash."""
        path = (folder or self.bin) / name
        path.parent.mkdir(exist_ok=True)
        noting = "" if name in ("sleep", "nvidia-smi") else f'{{ printf "%q " {name} "$@"; echo; }}'
        note = f"{noting} >>'{self.calls_file}'" if noting else ""
        path.write_text(f"#!/bin/bash\n{note}\n{part}\n")
        path.chmod(0o755)

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
        for _ in range(500):
            if (self.folder / file).exists():
                return
            time.sleep(0.02)
        raise AssertionError(f"{file} was never made; {self.calls()}")


def saves(*steps: int) -> str:
    """A part of `bioclip2`: checkpoints of these steps."""
    return "".join(f"mkdir -p 'my run/checkpoints/{step}'; " for step in steps)


def is_usage_error(done: subprocess.CompletedProcess) -> bool:
    return done.returncode == 2 and len(done.stderr.splitlines()) == 1 and not done.stdout
