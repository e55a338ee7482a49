"""`bioclip2 search`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from bioclip2_jax.cli import options

if TYPE_CHECKING:
    from bioclip2_jax.features.library import Library

_SHOWN = 1000  # pictures on a sheet of near duplicates


@click.command()
@click.argument("store", metavar="STORE", type=options.Place())
@click.option("--image", "images", multiple=True, type=options.Place(), help="A picture to match.")
@click.option("--text", "texts", multiple=True, help="Words to match, as they stand.")
@click.option("--key", "keys", multiple=True, help="A picture of STORE to match.")
@click.option(
    "--duplicates",
    type=click.FloatRange(min=-1, max=1),
    metavar="COSINE",
    help="Instead: all pictures that are so near to another one, in groups.",
)
@click.option(
    "--model",
    "model_path",
    type=options.Place(),
    help="The model that made STORE, for --image and --text.  [default: where STORE says it lay]",
)
@click.option("--k", default=20, type=click.IntRange(min=1), help="Pictures a query.")
@click.option(
    "--output", default="-", type=options.Place(), help="CSV to write; '-' is standard output."
)
@click.option("--html", type=options.Place(), help="Contact sheet to write, one HTML file.")
def search(
    store: str,
    images: tuple[str, ...],
    texts: tuple[str, ...],
    keys: tuple[str, ...],
    duplicates: float | None,
    model_path: str | None,
    k: int,
    output: str,
    html: str | None,
) -> None:
    """Find the pictures of STORE, a feature store of `embed`, that are nearest to a query.

    Prints a table: query, place, key, the cosine as score, and what is known of the picture. All
    options for queries may be given several times. The search is exact.

    \b
    Examples:
      bioclip2 search features/birds --text "moth with eyespots" --html moths.html
      bioclip2 search features/birds --image unknown.jpg --k 5
      bioclip2 search features/birds --key 3.JPG
      bioclip2 search features/birds --duplicates 0.98 --output duplicates.csv
    """
    from bioclip2_jax.errors import UsageError
    from bioclip2_jax.features.library import Library

    if any(not text.strip() for text in texts):
        raise UsageError("--text is empty; write what to look for")
    if bool(images or texts or keys) == (duplicates is not None):
        raise UsageError("give --image, --text or --key, or --duplicates alone")
    library = Library(store)
    if duplicates is not None:
        _duplicates(library, duplicates, output, html)
        return
    _search(library, (images, texts, keys), model_path, k, output, html)


def _search(
    library: "Library",
    asked: tuple[Sequence[str], Sequence[str], Sequence[str]],
    model_path: str | None,
    k: int,
    output: str,
    html: str | None,
) -> None:
    from bioclip2_jax import files
    from bioclip2_jax.data import buckets
    from bioclip2_jax.features import contact_sheet, queries
    from bioclip2_jax.features.library import SHOWN
    from bioclip2_jax.features.search import best

    images, texts, keys = asked
    wanted = queries.encode(library, images=images, texts=texts, keys=keys, model_path=model_path)
    found = best(library, wanted.features, k, wanted.rows)
    rows = [
        [name, place, hit.entry.key, f"{hit.score:.6f}", *map(hit.entry.texts.get, SHOWN)]
        for name, hits in zip(wanted.names, found, strict=True)
        for place, hit in enumerate(hits, 1)
    ]
    _write(output, ["query", "place", "key", "score", *SHOWN], rows)
    if not html:
        return
    read, sections = contact_sheet.reader(library.about), []
    for number, (name, hits) in enumerate(zip(wanted.names, found, strict=True)):
        own = wanted.rows[number]
        if number < len(images):
            picture = buckets.read_bytes(files.place(name))
        else:
            picture = None if own is None else read(library.entries([own])[0])
        tiles = [
            contact_sheet.tile(hit.entry, read, [f"{place}. {hit.score:.4f}"])
            for place, hit in enumerate(hits, 1)
        ]
        sections.append(contact_sheet.Section(name, tiles, contact_sheet.url_of(picture)))
    files.write_text(html, contact_sheet.page(f"Search in {library.folder}", sections))


def _duplicates(library: "Library", cosine: float, output: str, html: str | None) -> None:
    import itertools

    from tqdm import tqdm

    from bioclip2_jax import files
    from bioclip2_jax.features import contact_sheet
    from bioclip2_jax.features.duplicates import near_duplicates
    from bioclip2_jax.features.library import SHOWN

    with tqdm(unit="blocks", disable=None) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        twins = near_duplicates(library, cosine, tell)
    rows = [
        [
            twin.group,
            twin.entry.key,
            f"{twin.cosine:.6f}",
            twin.nearest,
            *map(twin.entry.texts.get, SHOWN),
        ]
        for twin in twins
    ]
    _write(output, ["group", "key", "cosine", "nearest", *SHOWN], rows)
    count = twins[-1].group if twins else 0
    told = f"{len(twins):,} of {len(library):,} pictures in {count:,} groups of near duplicates"
    click.echo(told, err=True)
    if not html:
        return
    read = contact_sheet.reader(library.about)
    sections = [
        contact_sheet.Section(
            f"Group {group}",
            [contact_sheet.tile(twin.entry, read, [f"{twin.cosine:.4f}"]) for twin in members],
        )
        for group, members in itertools.groupby(twins[:_SHOWN], key=lambda twin: twin.group)
    ]
    note = told + (f"; the first {_SHOWN:,} are shown" if len(twins) > _SHOWN else "")
    title = f"Near duplicates in {library.folder}, cosine {cosine:g} or more"
    files.write_text(html, contact_sheet.page(title, sections, note))


def _write(output: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    import csv
    import io

    from bioclip2_jax import files

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    if output == "-":
        click.echo(text.getvalue(), nl=False)
    else:
        files.write_text(output, text.getvalue())
