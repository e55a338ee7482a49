"""Names weighted by place: what tables of records are read as, and what `predict` makes of them."""

import csv
import json
from pathlib import Path

import cameras
import duckdb
import pyarrow.parquet as pq
import pytest
from colour_world import TAXA, ColourModel
from commands import bioclip2

from bioclip2_jax.errors import UserError
from bioclip2_jax.identify import occurrences, places
from bioclip2_jax.identify.name_tree import NameTree
from bioclip2_jax.measures import streamed
from bioclip2_jax.text.taxonomy import Taxon
from bioclip2_jax.weights import load as loading

pytest.importorskip("h3", reason="h3 is not installed (.[dev] has it)")

HEAD = "kingdom genus species scientificName taxonRank decimalLatitude decimalLongitude".split()
HERE, AWAY = ("52.7", "23.85"), ("-33.7", "150.1")
TAXA_CSV = """kingdom,phylum,class,order,family,genus,species
Animalia,Chordata,Aves,Fireformes,Firidae,Ignis,red
Animalia,Chordata,Aves,Fireformes,Firidae,Ignis,orange
Animalia,Chordata,Aves,Seaformes,Maridae,Mare,blue
"""
NAMES = NameTree([*TAXA.values()])
CALL = ("predict", "card", "--model", "m", "--taxa", "taxa.csv")


def row(name: str, where: tuple[str, str] = HERE, **more: str) -> dict[str, str]:
    """A row of a download of GBIF."""
    genus, species = name.split()[0], name
    cells = ("Animalia", genus, species, f"{species} L., 1758", "SPECIES", *where)
    return dict(zip(HEAD, cells, strict=True)) | more


def write(path: str, rows: list[dict[str, str]], delimiter: str = "\t") -> str:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, [*dict.fromkeys(k for row in rows for k in row)], "", delimiter=delimiter
        )
        writer.writeheader()
        writer.writerows(rows)
    return path


def shares(records: occurrences.Records, where: places.Spot | None) -> dict[str, float]:
    """Colour → its share at a place."""
    asked = places.Places(records, NAMES, lambda *_: where)
    place = asked.place_of("x.jpg", None)
    assert place is not None
    return dict(zip(TAXA, asked.shares(place).tolist(), strict=True))


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The current folder: a red picture here, one away, one without coordinates, and records."""
    monkeypatch.setattr(loading, "load", lambda *_: ColourModel(logit_scale=10))
    monkeypatch.chdir(tmp_path)
    cameras.write("card/a/1.jpg", "red", latitude=(52, 42, 0), longitude=(23, 51, 0))
    south = {"latitude": (33, 42, 0), "longitude": (150, 6, 0), "hemispheres": "SE"}
    cameras.write("card/b/1.jpg", "red", **south)
    cameras.write("card/b/2.jpg", "red")
    Path("taxa.csv").write_text(TAXA_CSV)
    write("gbif.tsv", [row("Ignis orange")] * 50 + [row("Ignis red", AWAY)] * 20)
    return tmp_path


def answers(path: str) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# ---- What a table is read as


def test_records_count_by_cell_and_the_rest_for_the_world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        row("Ignis red", individualCount="8"),
        row("Ignis red", ("52,71", "23,86")),
        row("Ignis red", occurrenceStatus="ABSENT"),
        row("Ignis red", individualCount="0"),
        row("Ignis red subruber", individualCount="many"),
        row("Ignis", species="", taxonRank="GENUS"),
        row("Mare blue", ("0", "0")),
        row("Mare blue", ("123", "10")),
        row("Mare blue", ("", "")),
        row("Mare caeruleum", acceptedScientificName="Mare blue"),
        row("Pica pica"),
        row("Mare bluee"),
        row("Green", kingdom="Plantae", species="", taxonRank="GENUS"),
    ]
    found = occurrences.read(write("gbif.tsv", rows), NAMES)
    assert found.counts.sum() == 4 + 1 + 1 + 1 + 3 + 1 + 1  # 8 of a flock are 1 + 3
    assert found.counts[found.places == occurrences.UNKNOWN].tolist() == [3]
    assert len(set(found.places.tolist())) == 2
    told = "\n".join(found.notes)
    assert "9 rows are of names of the list" in told
    assert (
        "2 names with 2 rows are not in the list and left out: Mare bluee (did you mean Mare"
        " blue?), Pica pica" in told
    )
    assert "1 rows have a count that is none; they count once" in told
    assert (
        "3 rows have no usable coordinates (1 empty or no number, 1 outside their range, 1 at 0,0);"
        " they count for the world as a whole" in told
    )
    assert "Mare caeruleum is a synonym of Mare blue, which is taken" in told


def test_every_form_of_a_table_is_read_alike(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [row("Ignis orange")] * 3 + [row("Mare blue", AWAY, scientificName='Mare "blue" L.')]
    write("a[1].tsv", rows)
    write("semicolons.csv", rows, ";")
    Path("utf16.tsv").write_bytes(Path("a[1].tsv").read_text().encode("utf-16"))
    Path("old.tsv").write_bytes(Path("a[1].tsv").read_text().replace("L.", "Lé").encode("cp1252"))
    Path("archive").mkdir()
    Path("archive/occurrence.txt").write_bytes(Path("a[1].tsv").read_bytes())
    duckdb.sql("COPY (FROM read_csv('semicolons.csv', all_varchar=true)) TO 'gbif.parquet'")
    counted = [*dict.fromkeys(HEAD), "count"]
    write(
        "counted.csv",
        [
            dict(zip(counted, [*r.values(), n], strict=True))
            for r, n in ((rows[0], 3), (rows[3], 1))
        ],
        ",",
    )
    forms = ("semicolons.csv", "utf16.tsv", "old.tsv", "archive", "gbif.parquet", "counted.csv")
    first = occurrences.read("a[1].tsv", NAMES)
    assert first.counts.tolist() == [3, 1] and first.kind == occurrences.CELLS
    for form in forms:
        found = occurrences.read(form, NAMES)
        for part in ("places", "nodes", "counts"):
            assert getattr(found, part).tolist() == getattr(first, part).tolist(), form


@pytest.mark.parametrize(
    ("name", "rows", "sentence"),
    [
        ("a.tsv", [{"who": "x", "where": "y"}], "no column with names"),
        ("a.tsv", [row("Pica pica")], "names none of the 4 names of the list"),
        ("a.tsv", [row("Ignis red", ("123.5", "52"))] * 2, "swapped?"),
        ("a.tsv", [{"species": "Ignis red", "latitude": "1"}], "belong together"),
        ("a.zip", [row("Ignis red")], "unpack it"),
    ],
)
def test_what_is_no_table_of_records_is_refused(tmp_path, monkeypatch, name, rows, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^{name}.*{sentence.replace('?', '.')}"):
        occurrences.read(write(name, rows), NAMES)


def test_a_checklist_is_of_the_world_or_of_regions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = shares(occurrences.read(write("a.csv", [{"species": "Ignis red"}], ","), NAMES), None)
    assert found["red"] > found["orange"] > found["blue"] > found["green"] > 0
    rows = [
        {"species": "Ignis red", "region": "North"},
        {"species": "Mare blue", "region": "south"},
    ]
    regions = occurrences.read(write("b.csv", rows, ","), NAMES)
    north, south = shares(regions, "NORTH"), shares(regions, "South")
    assert north["red"] > north["blue"] and south["blue"] > south["red"]


def test_places_are_smoothed_over_cells_and_the_tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [row("Ignis orange")] * 50 + [row("Mare blue", AWAY)] * 50
    records = occurrences.read(write("gbif.tsv", rows), NAMES)
    here, near, country, away = (
        shares(records, spot) for spot in ((52.7, 23.8), (52.7, 25.0), (50.0, 18.0), (-33.0, 151.0))
    )
    assert here["orange"] >= near["orange"] > country["orange"] > away["orange"] > 0
    assert here["red"] > here["green"] and away["blue"] > away["orange"] > away["green"] > 0
    ocean = shares(records, (0.0, -30.0))
    assert ocean["orange"] == pytest.approx(ocean["blue"], rel=0.3)


def test_namesakes_of_other_kingdoms_and_subspecies_find_their_node():
    bird, plant = (
        Taxon("Animalia", genus="Oenanthe", species="x"),
        Taxon("Plantae", genus="Oenanthe"),
    )
    alba = Taxon("Animalia", genus="Motacilla", species="alba yarrellii")
    names = NameTree([bird, plant, alba])
    assert names.find(plant) != names.find(Taxon("Animalia", genus="Oenanthe"))
    assert names.find(Taxon("Fungi", genus="Oenanthe")) is None
    species = names.find(Taxon(genus="Motacilla", species="alba"))
    assert species == names.find(Taxon(genus="Motacilla", species="alba alba")) is not None
    assert species != names.find(alba) is not None


# ---- predict


def test_a_picture_is_weighted_by_its_place_and_the_plain_score_stays(home):
    assert bioclip2(*CALL, "--output", "plain.csv").returncode == 0
    done = bioclip2(*CALL, "--occurrences", "gbif.tsv", "--place-strength", 1, "--output", "a.csv")
    assert done.returncode == 0, done.stderr
    assert "gbif.tsv: 70 rows are of names of the list" in done.stderr
    assert "1 of 3 pictures have no place: their scores are unweighted" in done.stderr
    plain, found = answers("plain.csv"), answers("a.csv")
    assert [*found[0]][-4:] == ["unweighted_score", "score", "note", "error"]
    first = {
        name: [r for r in found if r["file_name"] == f"card/{name}"]
        for name in ("a/1.jpg", "b/1.jpg", "b/2.jpg")
    }
    assert first["a/1.jpg"][0]["species"] == "Ignis orange"
    assert first["b/1.jpg"][0]["species"] == "Ignis red"
    # Without coordinates nothing changes, to the bit.
    keys = [*plain[0]]
    assert [{k: r[k] for k in keys} for r in first["b/2.jpg"]] == plain[6:]
    own = {r["species"]: r["score"] for r in plain[:3]}
    for r in first["a/1.jpg"]:
        assert float(r["unweighted_score"]) == pytest.approx(float(own[r["species"]]), rel=1e-9)
    assert sum(float(r["score"]) for r in first["a/1.jpg"]) == pytest.approx(1)


def test_without_strength_all_is_as_ever_and_a_rank_sums(home, monkeypatch):
    assert bioclip2(*CALL, "--output", "plain.csv").returncode == 0
    how = ("--occurrences", "gbif.tsv", "--output", "a.csv")
    assert bioclip2(*CALL, *how, "--place-strength", 0).returncode == 0
    for one, other in zip(answers("plain.csv"), answers("a.csv"), strict=True):
        assert other.pop("unweighted_score") == other["score"] and one == other
    here = ("--place", ",".join(HERE), "--prior", "prior.csv", "--decode", "top_down")
    write("prior.csv", [{"species": "Ignis red", "count": "5"}], ",")
    Path("a.csv").unlink()
    assert bioclip2(*CALL, *how, *here).returncode == 0
    best = {r["file_name"]: r["species"] for r in reversed(answers("a.csv"))}
    assert [*best.values()] == ["Ignis orange"] * 3  # --place stands for all
    # By stretches, at a rank above: the same answers.
    Path("a.csv").unlink()
    rank = (*how, "--place", ",".join(HERE), "--rank", "order")
    assert bioclip2(*CALL, *rank).returncode == 0
    whole = answers("a.csv")
    monkeypatch.setattr(streamed, "LONG", 1)
    Path("a.csv").unlink()
    assert bioclip2(*CALL, *rank).returncode == 0
    for one, other in zip(whole, answers("a.csv"), strict=True):
        assert one["order"] == other["order"]
        for column in ("score", "unweighted_score"):
            assert float(one[column]) == pytest.approx(float(other[column]), rel=1e-3)


def test_a_table_says_where_pictures_were_taken(home):
    rows = [{"filename": "a/1.jpg", "latitude": AWAY[0], "longitude": AWAY[1]}]
    rows += [{"filename": "card/b/1.jpg", "latitude": "52,7", "longitude": HERE[1]}]
    write("where.csv", rows, ";")
    write("folders.csv", [{"deploymentID": "b", "latitude": HERE[0], "longitude": HERE[1]}], ",")
    how = ("--occurrences", "gbif.tsv", "--place-strength", 1, "--k", 1)
    assert bioclip2(*CALL, *how, "--place", "where.csv", "--output", "a.csv").returncode == 0
    assert [r["species"] for r in answers("a.csv")][:2] == ["Ignis red", "Ignis orange"]
    assert bioclip2(*CALL, *how, "--place", "folders.csv", "--output", "b.csv").returncode == 0
    species = [r["species"] for r in answers("b.csv")]
    assert species == ["Ignis red", "Ignis orange", "Ignis orange"]
    done = bioclip2(*CALL, *how, "--place", "52.7,23.9", "--columns", "dwc", "--output", "c.jsonl")
    assert done.returncode == 0, done.stderr
    (first, *_) = map(json.loads, Path("c.jsonl").read_text().splitlines())
    assert first["identificationRemarks"].startswith("by machine from the picture and its place;")


def test_an_output_is_not_gone_on_with_for_another_place(home, monkeypatch):
    from bioclip2_jax.identify import outputs

    how = (*CALL, "--occurrences", "gbif.tsv", "--output", "a.csv", "--batch-size", 1, "--place")
    whole = bioclip2(*how, "52.7,23.9")
    assert whole.returncode == 0
    wanted = Path("a.csv").read_bytes()
    Path("a.csv").unlink()
    add = outputs.Resumed.add
    with monkeypatch.context() as patch:

        def cut(self, rows, *, position, failed):
            add(self, rows, position=position, failed=failed)
            if position:
                raise KeyboardInterrupt

        patch.setattr(outputs.Resumed, "add", cut)
        assert bioclip2(*how, "52.7,23.9").returncode == 130
    done = bioclip2(*how, "52.7,24.9")
    assert done.returncode == 2 and "(--occurrences: checksum" in done.stderr
    assert bioclip2(*how, "52.7,23.9").returncode == 0
    assert Path("a.csv").read_bytes() == wanted


@pytest.mark.parametrize("form", ["a.csv", "a.parquet"])
def test_scores_do_not_tell_a_place_that_has_to_be_hidden(home, form):
    write("rules.csv", [{"scientificName": "Ignis orange", "action": "withhold"}], ",")
    how = ("--occurrences", "gbif.tsv", "--place-strength", 1, "--k", 1, "--obscure", "rules.csv")
    done = bioclip2(*CALL, *how, "--output", form, "--log", "log.json")
    assert done.returncode == 0, done.stderr
    rows = answers(form) if form == "a.csv" else pq.read_table(form).to_pylist()
    assert len(rows) == 3
    # Orange is the answer at the place, red without it: the rule holds, and red is written.
    hidden, seen, _ = rows
    assert hidden["species"] == "Ignis red" and hidden["score"] == hidden["unweighted_score"]
    assert seen["score"] != seen["unweighted_score"] and "plain" not in seen
    how = (*how, "--place", "52.7123,23.8", "--output", "b.csv", "--log", "log.json")
    assert bioclip2(*CALL, *how).returncode == 0
    assert "52.7123" not in Path("log.json").read_text() + Path("b.csv").read_text()


def test_a_package_is_weighted_by_where_its_cameras_stood_but_for_those_of_a_rule(home):
    times = ("deploymentStart", "deploymentEnd")
    cameras_ = [
        {"deploymentID": name, "latitude": y, "longitude": x}
        | dict(zip(times, ("2026-03-01 08:00", "2026-04-01 08:00"), strict=True))
        for name, (y, x) in (("a", HERE), ("b", AWAY))
    ]
    write("cameras.csv", cameras_, ",")
    taken = {"filePath": "a/1.jpg"}, {"filePath": "b/1.jpg"}, {"filePath": "b/2.jpg"}
    write("media.csv", [one | {"timestamp": "2026-03-05 10:00"} for one in taken], ",")
    project = {"title": "t", "samplingDesign": "opportunistic", "captureMethod": ["timeLapse"]}
    about = {"contributors": [{"title": "A", "role": "contact"}], "project": project}
    Path("project.json").write_text(json.dumps(about))
    write("rules.csv", [{"scientificName": "Ignis orange", "action": "10 km"}], ",")
    how = ("--format", "camtrap-dp", "--deployments", "cameras.csv", "--media", "media.csv")
    how += ("--package", "project.json", "--timezone", "UTC", "--k", 1)
    how += ("--occurrences", "gbif.tsv", "--place-strength", 1)

    def named(folder: str) -> list[str]:
        return [r["scientificName"] for r in answers(f"{folder}/observations.csv")]

    done = bioclip2(*CALL, *how, "--output", "open")
    assert done.returncode == 0, done.stderr
    assert named("open") == ["Ignis orange", "Ignis red", "Ignis red"]
    assert bioclip2(*CALL, *how, "--obscure", "rules.csv", "--output", "hidden").returncode == 0
    assert named("hidden") == ["Ignis red"] * 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--place", "52.7,23.8"], "--place goes with --occurrences TABLE"),
        (
            ["--occurrences", "gbif.tsv", "--sure", "0.9", "--calibration", "c.json"],
            "--sure does not go with --occurrences",
        ),
        (["--place-strength", "1"], "--place-strength goes with --occurrences TABLE"),
        (["--occurrences", "gbif.tsv", "--place", "123,10"], "swapped?"),
        (["--occurrences", "gbif.tsv", "--place", "10,190"], "a longitude of 190 lies beyond 180"),
        (["--occurrences", "gbif.tsv", "--place", "0,0"], "0,0 is what stands where no place"),
        (
            ["--occurrences", "gbif.tsv", "--place", "52,7,23,8"],
            "with a decimal point and one comma",
        ),
        (["--occurrences", "gbif.tsv", "--place", "Poland"], "neither LAT,LON nor a table"),
        (["--occurrences", "none.tsv"], "no such table"),
        (["--occurrences", "regions.csv"], "say by --place which one pictures are of: North"),
        (["--occurrences", "regions.csv", "--place", "1,2"], "has regions and no coordinates"),
    ],
)
def test_a_place_that_cannot_be_meant_is_refused(home, options, sentence):
    write("regions.csv", [{"species": "Ignis red", "region": "North"}], ",")
    done = bioclip2(*CALL, *options)
    assert done.returncode == 2 and sentence in done.stderr


def test_free_labels_and_stores_have_no_places(home):
    Path("labels.txt").write_text("red thing\n")
    call = ("predict", "card", "--model", "m", "--occurrences", "gbif.tsv")
    done = bioclip2(*call, "--labels", "labels.txt")
    assert done.returncode == 2 and "--occurrences needs the lineages of --taxa" in done.stderr
    assert bioclip2("embed", "card", "--model", "m", "--out", "store").returncode == 0
    call = ("predict", "store", *CALL[2:], "--occurrences", "gbif.tsv", "--k", 1)
    done = bioclip2(*call)
    assert done.returncode == 2 and "a feature store keeps no coordinates" in done.stderr
    done = bioclip2(*call, "--place", ",".join(HERE))
    assert done.returncode == 0 and done.stdout.count("Ignis orange") == 3, done.stderr
