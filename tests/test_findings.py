"""Results of analyses as files: what is written is read, and so are files of the first version."""

import json

import pytest
from result_files import WITHIN, put

from bioclip2_jax.analysis import theory
from bioclip2_jax.errors import UserError
from bioclip2_jax.evaluation import experiments, findings, schema
from bioclip2_jax.report.figures.theory import theory_curves


def test_a_result_is_read_as_it_was_written(tmp_path):
    result = schema.read(put(tmp_path / "first.json", WITHIN), findings.Within)
    schema.write(tmp_path / "again.json", result)
    assert schema.read(tmp_path / "again.json", findings.Within) == result
    written = json.loads((tmp_path / "again.json").read_text())
    assert {key: written[key] for key in WITHIN if key != "species"} == {
        key: value for key, value in WITHIN.items() if key != "species"
    }


def test_what_the_first_version_did_not_write_is_none(tmp_path):
    rho = {key: value for key, value in WITHIN["rho"].items() if key != "halves_mean"}
    path = put(tmp_path / "within.json", WITHIN | {"rho": rho})
    result = schema.read(path, findings.Within)
    assert result.rho.halves_mean is None and result.species[0].signal is None


def test_a_row_that_lacks_its_name_is_told_by_place(tmp_path):
    nameless = [{key: value for key, value in WITHIN["species"][0].items() if key != "name"}]
    path = put(tmp_path / "within.json", WITHIN | {"species": nameless})
    with pytest.raises(UserError, match=r"within\.json.*`name`.*species"):
        schema.read(path, findings.Within)


def test_theory_is_drawn_alike_from_its_file(tmp_path, monkeypatch):
    few = {name: values[:2] for name, values in theory.SWEEPS.items()}
    monkeypatch.setattr(theory, "SWEEPS", few)
    result = theory.run(0, steps=4, replicates=2)
    schema.write(tmp_path / "theory.json", result)
    stored = schema.read(tmp_path / "theory.json", experiments.Theory)
    assert stored.orthogonality == result.orthogonality and stored.settings == result.settings
    assert theory_curves(stored) == theory_curves(result)
    rows = json.loads((tmp_path / "theory.json").read_text())["hierarchy"]
    assert [("rho" in row) for row in rows] == [row["space"] == "seen" for row in rows]
