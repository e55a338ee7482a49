"""Models on the Hugging Face Hub, at one revision, with checksums."""

from collections.abc import Sequence
from pathlib import Path

from bioclip2_jax.errors import UsageError, UserError, reason
from bioclip2_jax.files import read_json_object

PREFIX = "hf-hub:"


def fetch(name: str, revision: str | None, weights: Sequence[str]) -> Path:
    """Downloads a model's JSON files and the first of the weight files that there is.

    Args:
      name: `hf-hub:organisation/model[@revision]`.
      revision: branch, tag or commit; None for the one in the name, or the newest.
      weights: file names, the preferred first; of a `.json` index, all the files in it are loaded.

    Returns:
      The folder in the Hub's cache; its name is the commit.

    Raises:
      UsageError: the name is malformed, or holds another revision.
      UserError: it cannot be reached, or holds none of these files.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, at, named = name.removeprefix(PREFIX).partition("@")
    if repository.count("/") != 1 or (at and not named):
        raise UsageError(f"{name}: write {PREFIX}ORGANISATION/MODEL or ...@REVISION")
    if named and revision and named != revision:
        raise UsageError(f"{name} and --revision {revision} ask for two revisions; give one")
    try:
        folder = snapshot_download(
            repository, revision=revision or named or None, allow_patterns="*.json"
        )
        commit = Path(folder).name
        for file in weights:
            try:
                index_or_weights = hf_hub_download(repository, file, revision=commit)
            except (EntryNotFoundError, LocalEntryNotFoundError):  # the latter: offline
                continue
            if file.endswith(".json"):
                parts = read_json_object(index_or_weights).get("weight_map", {}).values()
                for part in sorted(set(parts)):
                    hf_hub_download(repository, part, revision=commit)
            return Path(folder)
    except UserError:
        raise
    except Exception as error:  # whatever the network, the Hub and its library come up with
        raise UserError(f"{name}: cannot be fetched ({reason(error)})") from error
    raise UserError(f"{name}: none of {', '.join(weights)} there")
