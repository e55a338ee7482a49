"""A stand-in for `srun --kill-on-bad-exit=1` of a step of $TASKS tasks, one a node.

The first task that ends badly ends the others: SIGTERM, soon SIGKILL. srun says how each ended and
returns the strongest signal if there was one, else the highest code. SIGTERM of srun itself kills
all tasks at once. With a file `warn` in this folder, all get Slurm's warning, SIGTERM, once each
has made `startedRANK`.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

COUNT = int(os.environ.get("TASKS", "1"))


def main(words: list[str]) -> int:
    while words[0].startswith("--"):
        words = words[1:]
    tasks = [
        subprocess.Popen(words, env=os.environ | {"SLURM_PROCID": str(rank)})
        for rank in range(COUNT)
    ]

    def force(_number: int, _frame: object) -> None:
        print("srun: forcing job termination", file=sys.stderr, flush=True)
        for task in tasks:
            task.kill()

    signal.signal(signal.SIGTERM, force)
    told: set[int] = set()
    deadline = None
    while any(task.poll() is None for task in tasks) or len(told) < COUNT:
        for rank, task in enumerate(tasks):
            if rank in told or task.poll() is None:
                continue
            told.add(rank)
            code = task.returncode
            how = signal.strsignal(-code) if code < 0 else f"Exited with exit code {code}"
            if code:
                print(f"srun: error: n{rank}: task {rank}: {how}", file=sys.stderr, flush=True)
            if code and not deadline:
                print("srun: Terminating StepId=7.0", file=sys.stderr, flush=True)
                deadline = time.monotonic() + 0.3
                for other in tasks:
                    other.terminate()
        if deadline and time.monotonic() > deadline:
            for other in tasks:
                other.kill()
        if Path("warn").exists() and len(list(Path().glob("started[0-9]"))) == COUNT:
            Path("warn").unlink()
            for task in tasks:
                task.terminate()
        time.sleep(0.01)
    codes = [task.returncode for task in tasks]
    return 128 - min(codes) if min(codes) < 0 else max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
