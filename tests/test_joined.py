"""Lineages out of texts that join their names and leave out what is unknown."""

import itertools

import pytest

from bioclip2_jax.text.captions import lineage_text
from bioclip2_jax.text.joined import placed, tagged
from bioclip2_jax.text.taxonomy import RANKS, Taxon

LINEAGES = (
    "Animalia|Chordata|Mammalia|Carnivora|Ursidae|Ursus|arctos",
    "Animalia|Chordata|Actinopterygii|Cypriniformes|Cyprinidae|Carassius|auratus",
    "Animalia|Arthropoda|Insecta|Lepidoptera|Nymphalidae|Danaus|plexippus",
    "Plantae|Tracheophyta|Liliopsida|Poales|Poaceae|Poa|angustifolia",
    "Fungi|Basidiomycota|Agaricomycetes|Boletales|Boletaceae|Boletus|edulis",
    "Bacteria|Bacillota|Bacilli|Lactobacillales|Streptococcaceae|Streptococcus|mutans",
)


def with_holes():
    """Each lineage with each set of its ranks; no epithet without a genus."""
    for lineage in LINEAGES:
        for kept in itertools.product((True, False), repeat=7):
            ranks = [
                name if keep else "" for name, keep in zip(lineage.split("|"), kept, strict=True)
            ]
            if ranks[5] or not ranks[6]:
                yield Taxon(*ranks)


def test_joined_again_a_lineage_is_the_text():
    for taxon in with_holes():
        text = lineage_text(taxon)
        assert lineage_text(placed(text, taxon.scientific_name)) == text
        assert lineage_text(placed(text)) == text


def test_species_with_any_holes_but_the_uppermost_are_placed_right():
    wrong = [
        (taxon, placed(lineage_text(taxon), taxon.scientific_name))
        for taxon in with_holes()
        if taxon.species and taxon.kingdom and taxon.phylum
    ]
    assert [pair for pair in wrong if pair[0] != pair[1]] == []


def test_a_text_with_its_ranks_is_read_as_it_says():
    for taxon in with_holes():
        names = zip(RANKS, taxon.ranks, strict=True)
        text = " ".join(f"{rank} {name}" for rank, name in names if name)
        assert tagged(text) == (taxon if text else None)
        empty = " ".join(f"{rank} {name}" for rank, name in zip(RANKS, taxon.ranks, strict=True))
        assert (tagged(empty) or Taxon()) == taxon
    assert tagged("unknown taxonomy") is tagged("a kingdom by the sea") is None


@pytest.mark.parametrize(
    ("text", "scientific_name", "species"),
    [
        # The original keeps the last word of the species alone.
        ("Animalia Ursidae Ursus syriacus", "Ursus arctos syriacus", "arctos syriacus"),
        ("Plantae Rosaceae Malus domestica", "Malus × domestica Borkh.", "×domestica"),
        ("Viruses Tobamovirus virus", "Tobamovirus Tobacco mosaic virus", "tobacco mosaic virus"),
        ("Animalia Ursidae Ursus arctos", "Ursus maritimus", "arctos"),
        ("Animalia Ursidae Ursus arctos", "Ursus arctos Linnaeus, 1758", "arctos"),
        (
            "Animalia Chordata Mammalia Carnivora Ursidae Ursus arctos lasiotus",
            "",
            "arctos lasiotus",
        ),
        ("Animalia Chordata Aves Turdidae Turdus merula maximus", "", "merula maximus"),
        ("animalia chordata turdus merula", "turdus merula", "merula"),
    ],
)
def test_epithets_of_several_words(text, scientific_name, species):
    assert placed(text, scientific_name).species == species
    assert placed(text, scientific_name).genus in text.title()


@pytest.mark.parametrize(
    ("text", "lineage"),
    [
        ("incertae sedis Arthropoda Insecta Lepidoptera", "-|Arthropoda|Insecta|Lepidoptera|-|-|-"),
        ("Metazoa Chordata Aves", "Animalia|Chordata|Aves|-|-|-|-"),
        ("Animalia Squamata Colubridae Natrix", "Animalia|Squamata|-|-|Colubridae|Natrix|-"),
        ("Chordata Aves Corvidae Pica pica", "-|Chordata|Aves|-|Corvidae|Pica|pica"),
        ("Fungi Tuberaceae Tuber", "Fungi|-|-|-|Tuberaceae|Tuber|-"),
        ("Animalia Insecta Diptera Lasius", "Animalia|-|Insecta|Diptera|-|Lasius|-"),
        (
            "Bacteria Candidatus Phytoplasma asteris",
            "Bacteria|-|-|-|-|Candidatus phytoplasma|asteris",
        ),
        ("Ursidae", "-|-|-|-|Ursidae|-|-"),
        ("Ursus", "-|-|-|-|-|Ursus|-"),
        ("Fungi", "Fungi|-|-|-|-|-|-"),
        ("unknown", "-|-|-|-|-|-|-"),
    ],
)
def test_each_name_stands_at_its_rank(text, lineage):
    assert "|".join(name or "-" for name in placed(text).ranks).lower() == lineage.lower()
