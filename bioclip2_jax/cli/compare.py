"""`bioclip2 compare`."""

import click


@click.command()
@click.argument("first", type=click.Path(file_okay=False))
@click.argument("second", type=click.Path(file_okay=False))
@click.option("--out", type=click.Path(dir_okay=False), help="JSON file for the comparison.")
def compare(first: str, second: str, out: str | None) -> None:
    """Compare two models picture by picture, on the results that `evaluate` wrote.

    For each of zero-shot and few-shot that FIRST and SECOND both hold: the difference of the
    accuracies (SECOND less FIRST) with its 95 % bootstrap interval, and McNemar's exact test on
    the pictures that only one of them got right.

    \b
    Example:
      bioclip2 compare runs/birds/eval/1000 runs/birds/eval/9000 --out comparison.json
    """
    import json
    from pathlib import Path

    from bioclip2_jax.evaluation import compare as program
    from bioclip2_jax.evaluation import tables as results

    found = program.compare(first, second)
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        results.write_file(Path(out), (json.dumps(found, indent=1) + "\n").encode())
    for task, result in found["tasks"].items():
        click.echo(program.one_line(task, result))
