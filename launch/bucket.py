"""Says how far a run in a bucket is: `python launch/bucket.py newest | done gs://BUCKET/RUN`.

"newest" prints the step of its newest complete checkpoint, 0 where there is none. "done" ends with
0 if its last step is saved, otherwise with 1.
"""

import sys

from etils import epath


def main(question: str, workdir: str) -> int:
    """Answers; returns the exit code."""
    run = epath.Path(workdir)
    if question == "done":
        return int(not (run / "done.json").exists())
    folder = run / "checkpoints"
    paths = list(folder.iterdir()) if folder.exists() else []
    # Folders of a bucket are not renamed when they are whole: Orbax writes this file last.
    whole = [path for path in paths if (path / "commit_success.txt").exists()]
    print(max((int(path.name) for path in whole if path.name.isdecimal()), default=0))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
