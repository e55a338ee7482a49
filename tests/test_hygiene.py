"""Corrections of lineages by a curator's table, and the report of what contradicts itself."""

import itertools
import pickle
import random
from dataclasses import replace

import pytest
from rapidfuzz.distance import OSA

from bioclip2_jax.errors import UserError
from bioclip2_jax.prepare import hygiene
from bioclip2_jax.prepare.hygiene import Conflict, Corrections, conflicts
from bioclip2_jax.text.taxonomy import RANKS, Taxon

BEE = Taxon("Animalia", "Arthropoda", "Insecta", "Hymenoptera", "Apidae", "Bombus", "terrestris")
FIG = Taxon("Plantae", "", "", "Rosales", "Moraceae", "Ficus", "carica")
SNAIL = Taxon("Animalia", "Mollusca", "Gastropoda", "", "Ficidae", "Ficus", "ficus")


def _corrections(tmp_path, text: str) -> Corrections:
    path = tmp_path / "corrections.csv"
    path.write_text(text, encoding="utf-8")
    return Corrections.read(path)


def _rename(tmp_path, *rows: str) -> Corrections:
    return _corrections(tmp_path, "\n".join(["rank,name,correct,within", *rows, ""]))


def test_without_rules_nothing_changes():
    assert Corrections().apply(BEE) is BEE


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ("genus,Bombas,Bombus,", replace(BEE, genus="Bombas")),
        ("Genus,bombas,BOMBUS,", replace(BEE, genus="Bombas")),
        ("order,Hymenoptra,Hymenoptera,", replace(BEE, order="Hymenoptra")),
        ("kingdom,Animals,Animalia,", replace(BEE, kingdom="Animals")),
        ("species,Bombus terestris,Bombus terrestris,", replace(BEE, species="terestris")),
        ("species,Bombus terestris,terrestris,", replace(BEE, species="terestris")),
        ("species,terestris,terrestris,", replace(BEE, species="terestris")),
        ("species,terestris,terrestris,Apidae", replace(BEE, species="terestris")),
        (
            "species,Apis terestris,Bombus terrestris,",
            replace(BEE, genus="Apis", species="terestris"),
        ),
    ],
)
def test_a_wrong_name_is_replaced_wherever_it_stands(tmp_path, row, wrong):
    corrections = _rename(tmp_path, row)
    assert corrections.apply(wrong) == BEE
    assert corrections.apply(BEE) == BEE
    assert corrections.apply(FIG) == FIG


def test_unknown_leaves_a_hole(tmp_path):
    corrections = _rename(tmp_path, "order,Rosales,unknown,", "species,Ficus ficus,n/a,")
    assert corrections.apply(FIG) == replace(FIG, order="")
    assert corrections.apply(SNAIL) == replace(SNAIL, species="")
    assert corrections.apply(replace(SNAIL, species="ficus minor")) == replace(SNAIL, species="")


def test_homonyms_are_told_apart_by_a_name_above(tmp_path):
    corrections = _rename(
        tmp_path, "genus,Ficus,Ficusia,Mollusca", "genus,Ficus,Ficaria,", "genus,Ficus,Fig,Rosales"
    )
    assert corrections.apply(SNAIL).genus == "Ficusia"
    assert corrections.apply(FIG).genus == "Fig"
    assert corrections.apply(Taxon(genus="Ficus")).genus == "Ficaria"


def test_a_name_above_counts_before_and_after_it_was_corrected(tmp_path):
    for within in ("Moracea", "Moraceae"):
        rows = ("family,Moracea,Moraceae,", f"genus,Fikus,Ficus,{within}")
        wrong = replace(FIG, family="Moracea", genus="Fikus")
        assert _rename(tmp_path, *rows).apply(wrong) == FIG


def test_genus_and_species_may_both_be_corrected(tmp_path):
    wrong = replace(BEE, genus="Bombas", species="terestris")
    for name in ("Bombas terestris", "Bombus terestris", "terestris"):
        rows = ("genus,Bombas,Bombus,", f"species,{name},terrestris,")
        assert _rename(tmp_path, *rows).apply(wrong) == BEE


def test_a_subspecies_stays_with_its_corrected_species(tmp_path):
    corrections = _rename(
        tmp_path,
        "species,Bombus terestris,Bombus terrestris,",
        "species,Bombus terrestris audux,Bombus terrestris audax,",
    )
    for below in ("terestris audax", "terrestris audux", "terrestris audax"):
        assert corrections.apply(replace(BEE, species=below)).species == "terrestris audax"


def test_a_whole_lineage_is_replaced_at_the_ranks_of_the_table(tmp_path):
    corrections = _corrections(
        tmp_path,
        "scientificName,order,family,genus,specificEpithet\n"
        '"Felis pajeros Desmarest, 1816",Carnivora,Felidae,Leopardus,colocola\n'
        "Ficus,unknown,Ficidae,Ficus,\n"
        "Mareca penelope × Anas acuta,Anseriformes,Anatidae,,\n",
    )
    cat = Taxon("Animalia", "Chordata", "", "Felina", "", "Felis", "pajeros")
    colocolo = Taxon("Animalia", "Chordata", "", "Carnivora", "Felidae", "Leopardus", "colocola")
    assert corrections.apply(cat) == colocolo
    # The taxon itself is meant, not what is below it.
    assert corrections.apply(replace(SNAIL, species="", order="X")) == replace(SNAIL, species="")
    assert corrections.apply(SNAIL) == SNAIL
    duck = corrections.apply(Taxon("Animalia"), "Mareca penelope × Anas acuta")
    assert duck == Taxon("Animalia", order="Anseriformes", family="Anatidae")


def test_a_replaced_species_may_bring_its_genus(tmp_path):
    text = "scientificName,species\nFelis pajeros,Leopardus colocola\n"
    cat = Taxon(family="Felidae", genus="Felis", species="pajeros")
    right = Taxon(family="Felidae", genus="Leopardus", species="colocola")
    assert _corrections(tmp_path, text).apply(cat) == right


def test_one_table_may_hold_both_kinds_of_rows(tmp_path):
    corrections = _corrections(
        tmp_path,
        "rank;name;correct;scientificName;family\n"
        "genus;Bombas;Bombus;;\n;;;Ficus ficus;Ficuidae\ngenus;Bombas;Bombus;;\n",
    )
    assert corrections.apply(replace(BEE, genus="Bombas")) == BEE
    assert corrections.apply(SNAIL).family == "Ficuidae"


def test_corrections_travel_to_other_processes(tmp_path):
    corrections = _rename(tmp_path, "genus,Bombas,Bombus,")
    assert pickle.loads(pickle.dumps(corrections)) == corrections


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rank,name,correct\ntribe,Bombini,Bombina\n", "line 2: there is no rank 'tribe'; choose"),
        ("rank,name,correct\n\ngenus,Bombas,\n", "line 3: the cell of 'correct' is empty"),
        ("rank,name,correct\n,Bombas,Bombus\n", "line 2: the cell of 'rank' is empty"),
        ("rank,name,correct\ngenus,,Bombus\n", "line 2: the cell of 'name' is empty"),
        (
            "rank,name,correct\ngenus,Bombus,Bombus\n",
            "line 2: 'Bombus' and 'Bombus' are read alike",
        ),
        ("rank,name,correct\norder,unplaced,Rosales\n", "'unplaced' cannot be read as a name"),
        ("rank,name,correct\ngenus,Ficus,BOLD:AAA1\n", "'BOLD:AAA1' cannot be read as a name"),
        (
            "rank,name,correct\ngenus,Bombas,Bombus\ngenus,bombas,Bombylius\n",
            "line 3: line 2 corrects the same name to something else",
        ),
        ("scientificName,genus\nFelis pajeros,\n", "line 2: no rank of 'Felis pajeros' is filled"),
        ("scientificName,genus\n,Felis\n", "line 2: the cell of 'scientificName' is empty"),
        (
            "scientificName,family,species\nFelis x,F,colocola\n",
            "line 2: the species cannot be read",
        ),
        (
            "scientificName,family\nFelis pajeros,Felidae\nFelis pajeros L.,Canidae\n",
            "line 3: line 2 corrects the same name",
        ),
        ("name,correct\nBombas,Bombus\n", "has the columns rank, name and correct, or"),
        ("scientificName\nBombas\n", "has the columns rank, name and correct, or"),
        ("rank,name,correct\n", "the table has no rows"),
    ],
)
def test_a_faulty_table_is_refused_by_file_and_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        _corrections(tmp_path, text)
    assert "corrections.csv" in str(caught.value) and "\n" not in str(caught.value)


def _under(*names: str) -> Taxon:
    return Taxon(*names[: len(RANKS)])


def test_a_genus_in_two_families_is_a_conflict_and_a_hole_is_none():
    taxa = {
        _under("A", "B", "C", "D", "Apidae", "Bombus", "one"): 30,
        _under("A", "B", "C", "D", "Apidae", "Bombus", "two"): 60,
        _under("A", "B", "C", "D", "Halictidae", "Bombus", "three"): 3,
        _under("A", "", "C", "", "", "Bombus", "four"): 1000,
    }
    assert conflicts(taxa) == [
        Conflict(
            kind="parents",
            rank="genus",
            name="Bombus",
            other="Bombus",
            parent="Apidae",
            other_parent="Halictidae",
            images=90,
            other_images=3,
        )
    ]


def test_any_child_with_two_parents_is_found_at_its_own_rank_alone():
    lineage = ("Animalia", "Chordata", "Aves", "Passeriformes", "Corvidae", "Pica", "pica")
    for place in range(len(RANKS) - 2):
        other = (*lineage[:place], "Else" + "x" * place, *lineage[place + 1 :])
        found = [row for row in conflicts({_under(*lineage): 2, _under(*other): 1})]
        assert [(row.kind, row.rank) for row in found] == [
            ("parents" if place else "homonym", RANKS[place + 1])
        ]
        assert (found[0].parent, found[0].other_parent) == (lineage[place], other[place])


def test_a_hole_does_not_hide_a_contradiction_above_it():
    taxa = {
        Taxon("A", order="Rosales", family="Moraceae", genus="Ficus"): 5,
        Taxon("A", order="Urticales", genus="Ficus"): 2,
    }
    (row,) = conflicts(taxa)
    assert (row.rank, row.parent, row.other_parent) == ("genus", "Rosales", "Urticales")


def test_homonyms_of_two_kingdoms_come_last():
    wrong = replace(BEE, family="Halictidae")
    rows = conflicts({FIG: 1000, SNAIL: 1, BEE: 2, wrong: 1})
    assert [(row.kind, row.name) for row in rows] == [("parents", "Bombus"), ("homonym", "Ficus")]


def test_spellings_that_differ_by_a_letter_are_found_where_they_matter():
    taxa = {
        BEE: 100,
        replace(BEE, species="terestris"): 1,
        replace(BEE, species="terrestris audax"): 5,
        replace(BEE, genus="Apis"): 50,  # the same epithet elsewhere
        replace(BEE, genus="Apis", species="terrestrix"): 10,
        replace(BEE, genus="Bombsu", species="x"): 2,  # two letters that changed places
        replace(BEE, order="Hymenoptera", family="Apidea", genus="Nomada"): 4,
    }
    found = [
        (row.rank, row.name, row.other, row.images, row.other_images) for row in conflicts(taxa)
    ]
    assert found == [
        ("species", "Bombus terrestris", "Bombus terestris", 105, 1),
        ("genus", "Bombus", "Bombsu", 106, 2),
        ("family", "Apidae", "Apidea", 168, 4),
        ("species", "Apis terrestris", "Apis terrestrix", 50, 10),
    ]


def test_names_above_genus_are_compared_below_one_parent_and_genera_anywhere():
    far = Taxon("Plantae", order="Rosales", family="Apidea", genus="Bombuz")
    found = {(row.rank, row.other) for row in conflicts({BEE: 3, far: 1})}
    assert found == {("genus", "Bombuz")}
    hole = Taxon("Animalia", family="Apidea", genus="Nomada")
    assert [row.rank for row in conflicts({BEE: 3, hole: 1})] == ["family"]


def _brute(names: list[str]) -> set[tuple[str, str]]:
    return {pair for pair in itertools.combinations(sorted(names), 2) if OSA.distance(*pair) == 1}


def test_every_pair_of_neighbours_is_found_and_no_other(monkeypatch):
    draw = random.Random(0)
    names = {"".join(draw.choices("abcé", k=draw.randint(2, 6))) for _ in range(400)}
    monkeypatch.setattr(hygiene, "_NAMES_AT_A_TIME", 50)  # several batches
    taxa = {Taxon(genus=genus, species=name): 1 for genus in ("Aa", "Zyxwvut") for name in names}
    found = [row for row in conflicts(taxa) if row.rank == "species"]
    for genus in ("Aa", "Zyxwvut"):
        pairs = {(row.name, row.other) for row in found if row.parent == genus}
        assert pairs == {(f"{genus} {a}", f"{genus} {b}") for a, b in _brute(list(names))}
    assert len(found) == 2 * len(_brute(list(names))) > 100


def test_the_report_does_not_depend_on_the_order_of_taxa():
    draw = random.Random(1)
    ranks = [["A", "B"], ["Ca"], ["Da", "Db", ""], ["Ea", "Eb"], ["Fa", "Fab", ""], ["Gus", "Gis"]]
    taxa = {_under(*map(draw.choice, ranks), "alba"): draw.randint(1, 9) for _ in range(60)}
    rows = conflicts(taxa)
    items = list(taxa.items())
    draw.shuffle(items)
    assert conflicts(dict(items)) == rows
    assert {row.kind for row in rows} == {"parents", "homonym", "spelling"}


def test_no_taxa_have_no_conflicts():
    assert conflicts({}) == conflicts({Taxon(): 5}) == []
