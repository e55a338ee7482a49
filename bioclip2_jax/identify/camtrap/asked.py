"""From the options of a call to what a package is made of; all of it is refused before the work."""

import os
from collections.abc import Sequence

from bioclip2_jax import files
from bioclip2_jax.errors import UsageError
from bioclip2_jax.identify.boxes import Boxes
from bioclip2_jax.identify.camtrap import about, deployments, schemas
from bioclip2_jax.identify.camtrap.package import Package, refuse_foreign
from bioclip2_jax.identify.inputs import Inputs
from bioclip2_jax.identify.name_lists import LabelSet
from bioclip2_jax.identify.obscure import Obscured


def read(
    *,
    deployments_table: str | None,
    media_table: str | None,
    about_file: str | None,
    timezone: str | None,
    output: str,
    arguments: Sequence[str],
    pictures: Inputs | Boxes,
    labels: LabelSet,
    obscured: Obscured | None,
) -> Package:
    """Reads the tables, and sees to it that each picture has its deployment.

    Args:
      deployments_table, media_table, about_file, timezone, output: as the options say.
      arguments: what was named as pictures.
      pictures: in it.
      labels: the list of names.
      obscured: rules for some of them.

    Raises:
      UsageError: something is missing, or a picture is of no deployment.
      UserError: a table cannot be read.
    """
    if not labels.taxa:
        raise UsageError(
            "--format camtrap-dp needs the lineages of --taxa; free --labels have none"
        )
    for option, value, what in (
        ("--deployments TABLE", deployments_table, "where and when each camera stood"),
        ("--timezone ZONE", timezone, "that of the cameras' clocks, such as Europe/Brussels"),
        ("--package JSON", about_file, "contributors and project, see docs/identify.md"),
    ):
        if not value:
            raise UsageError(f"--format camtrap-dp needs {option}: {what}")
    refuse_foreign(output)
    zone = schemas.zone_of(timezone or "")
    places = deployments.read(deployments_table or "", zone)
    media = deployments.Media()
    if media_table:
        media = deployments.read_media(media_table, zone, places)
    base = (arguments[0] if arguments else ".") if isinstance(pictures, Boxes) else None
    package = Package(
        deployments=places,
        media=media,
        about=about.read(about_file or ""),
        zone=zone,
        root=_root(arguments, pictures),
        base=base,
        columns=labels.columns,
        obscured=obscured,
        detector=pictures.detector if isinstance(pictures, Boxes) else "",
    )
    package.refuse_strangers(pictures.names())
    return package


def _root(arguments: Sequence[str], pictures: Inputs | Boxes) -> str:
    """The folder that paths in a package count from: the one that was named, or above all."""
    only = str(files.absolute(arguments[0])).rstrip("/") if len(arguments) == 1 else ""
    if isinstance(pictures, Boxes):
        return only or os.path.abspath(".")
    names = [n if files.is_remote(n) else os.path.abspath(n) for n in pictures.names()]
    if only and all(name.startswith(f"{only}/") for name in names):  # an archive, too
        return only
    folders = [os.path.dirname(name) for name in names if not files.is_remote(name)]
    return os.path.commonpath(folders) if folders else ""
