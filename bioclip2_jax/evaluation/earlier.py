"""Results of before, such as of a model not fine-tuned yet, beside those that are made now."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bioclip2_jax.errors import naming
from bioclip2_jax.evaluation import schema
from bioclip2_jax.evaluation.compare import AnyHeld, compare_held, held, lines, nothing_held
from bioclip2_jax.evaluation.subject import Job, Subject
from bioclip2_jax.files import place

FILE = "comparison.json"

Earlier = Mapping[str, Mapping[str, AnyHeld]]  # name of the data → task → results


def read_earlier(folder: str | Path, jobs: Sequence[Job]) -> Earlier:
    """The results to compare with, read before there are new ones, maybe in their place.

    Args:
      folder: that an earlier evaluation wrote; results of several sets lie in folders of it.
      jobs: from `tasks.plan`.

    Returns:
      Those that are there.

    Raises:
      UsageError: there are none, as where a model is given.
      UserError: they are damaged.
    """
    earlier: dict[str, dict[str, AnyHeld]] = {}
    with naming("--compare-to"):
        for job in jobs:
            inner = held(place(folder) / job.folder, [job.task])
            found = inner or held(place(folder), [job.task])
            if found:
                earlier.setdefault(job.name, {}).update(found)
        if not earlier:
            raise nothing_held(folder)
    return earlier


def compare_with(earlier: Earlier, subject: Subject, jobs: Sequence[Job]) -> None:
    """Writes `comparison.json` beside the results of each set, and says what is in it.

    Args:
      earlier: from `read_earlier`; {} for nothing.
      subject, jobs: whose results are there.

    Raises:
      UserError: earlier and present results are of other pictures, names or supports.
    """
    for name, folder in dict.fromkeys((job.name, job.folder) for job in jobs):
        here = [job for job in jobs if (job.name, job.folder) == (name, folder)]
        before = earlier.get(name, {})
        now = held(subject.place(here[0]), [job.task for job in here]) if before else {}
        if before.keys() & now.keys():
            comparison = compare_held(before, now)
            schema.write(subject.place(here[0]) / FILE, comparison)
            subject.say(f"compared with {comparison.first}:")
            for line in lines(comparison):
                subject.say(line)
