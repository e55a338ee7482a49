"""What no picture tells of a project: the JSON that somebody hands in for datapackage.json."""

from collections.abc import Mapping
from typing import Any, TypeGuard

from bioclip2_jax import files
from bioclip2_jax.errors import UserError
from bioclip2_jax.identify.camtrap import schemas

MADE = (
    *("resources", "profile", "created", "spatial", "temporal", "taxonomic"),
    "informationWithheld",  # which only we write
)
_CHOICES = ("samplingDesign", "captureMethod")


def read(path: str) -> dict[str, Any]:
    """Reads `contributors`, `project` and whatever else a datapackage.json may hold.

    An older datapackage.json does: what is made anew (`MADE`) is left out.

    Raises:
      UserError: unreadable, or a property that Camtrap DP requires is missing or not allowed.
    """
    about = {key: value for key, value in files.read_json_object(path).items() if key not in MADE}
    people = about.get("contributors")
    if not isinstance(people, list) or not people or not all(map(_has_title, people)):
        raise UserError(
            f'{path}: no `contributors`; write "contributors": [{{"title": "Your name", "role":'
            ' "contact"}]'
        )
    project = about.get("project")
    if not _has_title(project):
        raise UserError(f'{path}: `project` has no title; write "project": {{"title": "…"}}')
    for name in _CHOICES:
        allowed, value = schemas.project_choices(name), project.get(name)
        values = value if name == "captureMethod" else [value]
        if not isinstance(values, list) or not values or not {*map(str, values)} <= {*allowed}:
            kind = "a list of some of" if name == "captureMethod" else "one of"
            raise UserError(f"{path}: project.{name} must be {kind} {', '.join(allowed)}")
    if not all(map(_has_title, about.get("sources", ()))):
        raise UserError(f"{path}: `sources` has to be a list, of which each has a `title`")
    licences = about.get("licenses", [])
    scopes = [item.get("scope") for item in licences if isinstance(item, Mapping)]
    if licences and not {"data", "media"} <= {*scopes}:
        raise UserError(
            f"{path}: `licenses` needs one with the scope `data` and one with `media`, or none"
        )
    own = {"individualAnimals": False, **project, "observationLevel": ["media"]}
    return about | {"project": own}


def _has_title(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and bool(value.get("title"))
