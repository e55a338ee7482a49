"""The label files of pybioclip: one text feature a taxon, ready for its open-ended mode.

`txt_emb_species.npy` is float32 [dim, taxa] with L2-normalised columns; `txt_emb_species.json` is
the list of `[[kingdom, phylum, class, order, family, genus, epithet], common name]` in the same
order, empty strings for what is missing. The text of a taxon is its ranks and its common name,
parted by blanks, in the 80 sentences of CLIP (TreeOfLife-toolbox, `make_txt_embedding.py`).
"""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from bioclip2_jax import files
from bioclip2_jax.data import buckets
from bioclip2_jax.errors import UsageError, UserError
from bioclip2_jax.features.embed import checksum
from bioclip2_jax.features.encode import embed_classes
from bioclip2_jax.identify.label_files import MODEL_FILE
from bioclip2_jax.text.taxonomy import Taxon
from bioclip2_jax.text.templates import IMAGENET_TEMPLATES
from bioclip2_jax.weights.load import Model

FEATURES_FILE = "txt_emb_species.npy"
NAMES_FILE = "txt_emb_species.json"
_TAXA_AT_A_TIME = 1024


def write_labels(
    model: Model,
    taxa: Iterable[tuple[Taxon, str]],
    out: Path,
    batch_size: int = 256,
    progress: Callable[[int], object] = lambda done: None,
) -> int:
    """Writes both files into `out`, and which model made them.

    The features never lie in memory whole.

    Args:
      model: from `load`.
      taxa: (taxon, common name or "").
      out: folder, made if missing.
      batch_size: texts encoded at a time.
      progress: called with the number of taxa done, again and again.

    Returns:
      The number of taxa.

    Raises:
      UsageError: `out` holds label files already.
      UserError: the features are not finite, or the files cannot be written.
    """
    taxa = list(taxa)
    for name in (FEATURES_FILE, NAMES_FILE):
        if (out / name).exists():
            raise UsageError(f"{out / name} exists already; name another folder")
    names = [[list(taxon.ranks), common] for taxon, common in taxa]
    shape = (model.config.embed_dim, len(taxa))
    try:
        files.make_folder(out)
        with _written(out / FEATURES_FILE) as path:
            columns = np.lib.format.open_memmap(path, "w+", np.float32, shape)
            for start in range(0, len(taxa), _TAXA_AT_A_TIME):
                part = taxa[start : start + _TAXA_AT_A_TIME]
                # "Animalia Chordata ... Pica pica Eurasian Magpie"
                texts = [" ".join(filter(None, (*taxon.ranks, common))) for taxon, common in part]
                features = embed_classes(model, texts, batch_size, IMAGENET_TEMPLATES)
                columns[:, start : start + len(part)] = features.T
                progress(start + len(part))
            columns.flush()
            del columns
            files.write_text(out / NAMES_FILE, json.dumps(names, ensure_ascii=False))
            files.write_json(out / MODEL_FILE, {"sha256": checksum(model), "step": model.step})
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error})") from error
    return len(taxa)


@contextlib.contextmanager
def _written(path: Path) -> Iterator[str]:
    """A name to map a file under that becomes `path`."""
    if not files.is_remote(path):
        with files.replacing(path) as partial:
            yield partial
        return
    with tempfile.TemporaryDirectory(prefix="bioclip2-") as folder:
        yield str(Path(folder, path.name))
        buckets.upload(Path(folder, path.name), path)
