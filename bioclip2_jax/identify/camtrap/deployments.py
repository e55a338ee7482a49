"""Where and when cameras stood: the table that somebody hands in, and which picture is of which.

A picture belongs to the deployment whose folder it lies in, at any depth: that of the deployment's
name, or what a column `folder` says. A table of pictures may say otherwise, and give times.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field

from bioclip2_jax import files
from bioclip2_jax.data import tables
from bioclip2_jax.errors import UserError
from bioclip2_jax.identify.camtrap import schemas
from bioclip2_jax.identify.obscure import Rule, spread
from bioclip2_jax.text.taxonomy import normal

_FOLDER = ("folder", "directory")
_FILE = ("filepath", *(name for name in tables.FILE_COLUMNS if name != "filepath"))
Row = dict[str, str]
Folder = tuple[str, ...]


@dataclass(frozen=True)
class Deployments:
    """The deployments of a table.

    Attributes:
      path: of the table.
      rows: deploymentID → the cells of Camtrap DP's columns.
      folders: the folders' names, the inner one last → deploymentID.
      notes: what people should know of the table.
    """

    path: str
    rows: Mapping[str, Row]
    folders: Mapping[Folder, str]
    notes: list[str] = field(default_factory=list)

    def of(self, picture: str) -> str | None:
        """The deployment that a picture is of by its path: that of the innermost folder."""
        folder = _folder(picture)
        for end in range(len(folder), 0, -1):
            for start in range(end):
                if name := self.folders.get(folder[start:end]):
                    return name
        return None

    def obscured(self, rules: Mapping[str, Rule]) -> dict[str, Rule]:
        """The rules of deployments, spread over what tells the same place.

        Those that share a locationID or coordinates have the coarsest rule of one another.
        """
        return spread(rules, {name: _places(row) for name, row in self.rows.items()})


def _places(row: Row) -> list[tuple[str, ...]]:
    """What tells where a deployment is."""
    point = str(float(row["latitude"])), str(float(row["longitude"]))
    return [point, *([(row["locationID"],)] if row["locationID"] else [])]


def _folder(picture: str) -> Folder:
    return tuple(part for part in picture.replace("\\", "/").split("/")[:-1] if part != ".")


def read(path: str, zone: datetime.tzinfo) -> Deployments:
    """Reads the table: Camtrap DP's columns under their names, and `folder` if wanted.

    Args:
      path: of the table.
      zone: of times that name none.

    Raises:
      UserError: unreadable, or a cell that Camtrap DP does not allow; names line and column.
    """
    table = tables.open_table(files.place(path))
    wanted = {normal(name): name for name in schemas.fields("deployments")}
    headers = {wanted[normal(h)]: h for h in table.header if normal(h) in wanted}
    missing = [
        name
        for name, about in schemas.fields("deployments").items()
        if about["constraints"]["required"] and name not in headers
    ]
    if missing:
        raise UserError(
            f"{path}: no column {missing[0]}; a deployment needs deploymentID, latitude, longitude,"
            " deploymentStart and deploymentEnd"
        )
    folder_column = table.column(_FOLDER)
    others = [h for h in table.header if h not in {*headers.values(), folder_column, ""}]
    notes = [f"{path}: not of Camtrap DP and left out: {', '.join(others)}"] if others else []
    rows: dict[str, Row] = {}
    folders: dict[Folder, str] = {}
    for line, cells in table.rows():
        row = {}
        for name, about in schemas.fields("deployments").items():
            text = cells[headers[name]] if name in headers else ""
            try:
                row[name] = schemas.checked(about, text, zone)
            except ValueError as error:
                shown = f" {text!r}" if text else ""
                raise UserError(f"{path}, line {line}: {name}{shown} {error}") from error
        name = row["deploymentID"]
        if name in rows:
            raise UserError(f"{path}, line {line}: the deploymentID {name!r} is there twice")
        if _time(row["deploymentEnd"]) < _time(row["deploymentStart"]):
            raise UserError(f"{path}, line {line}: deploymentEnd is before deploymentStart")
        rows[name] = row
        folder = _folder((folder_column and cells[folder_column] or name).strip("/\\") + "/")
        if other := folders.get(folder):
            raise UserError(
                f"{path}, line {line}: the folder of {name!r} is that of {other!r} too; let each"
                " deployment have a folder of its own"
            )
        folders[folder] = name
    return Deployments(path=path, rows=rows, folders=folders, notes=notes)


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


@dataclass(frozen=True)
class Media:
    """What a table says of single pictures.

    Attributes:
      path: of the table.
      rows: picture → (deploymentID or "", time or "").
    """

    path: str = ""
    rows: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def of(self, *names: str) -> tuple[str, str]:
        """What is said of a picture under any of its names."""
        return next((self.rows[name] for name in names if name in self.rows), ("", ""))


def read_media(path: str, zone: datetime.tzinfo, deployments: Deployments) -> Media:
    """Reads a table with a picture's path, and its `deploymentID`, `timestamp` or both.

    Raises:
      UserError: unreadable, or a cell that cannot be meant; names the line.
    """
    table = tables.open_table(files.place(path))
    file = table.column(_FILE)
    deployment, time = table.column(["deploymentid"]), table.column(["timestamp"])
    if not file or not (deployment or time):
        raise UserError(
            f"{path}: needs a column `filePath`, and `deploymentID` or `timestamp` beside it"
        )
    rows: dict[str, tuple[str, str]] = {}
    for line, cells in table.rows():
        name, when = cells[deployment] if deployment else "", cells[time] if time else ""
        if name and name not in deployments.rows:
            raise UserError(
                f"{path}, line {line}: deploymentID {name!r} is none of {deployments.path}"
            )
        try:
            when = schemas.time_of(when, zone).isoformat() if when else ""
        except ValueError as error:
            raise UserError(
                f"{path}, line {line}: timestamp {when!r} is no time; write 2026-03-01T22:00:00"
            ) from error
        rows[cells[file].replace("\\", "/")] = name, when
    return Media(path=path, rows=rows)
