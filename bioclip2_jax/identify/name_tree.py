"""A list of names as a tree, and which of its nodes the name in a row of a table means."""

from collections.abc import Sequence

from bioclip2_jax.identify.name_checks import ACCEPTED_COLUMNS
from bioclip2_jax.measures.local_shares import Tree
from bioclip2_jax.measures.scores import number
from bioclip2_jax.text.taxonomy import COLUMNS, MORE_COLUMNS, RANKS, Taxon

# What a name is read from, as `tables.normal` writes it.
NAME_COLUMNS = frozenset(
    (*ACCEPTED_COLUMNS, *(name for of in (COLUMNS | MORE_COLUMNS).values() for name in of))
)
_BINOMIAL = "binomial"  # the level of species, between their genus and their subspecies
_CLASS = RANKS.index("class")


class NameTree:
    """The tree of a list.

    Attributes:
      tree: its nodes; groups down to the class are recorded apart from each other.
      taxa: the list.
    """

    def __init__(self, taxa: Sequence[Taxon]):
        """Of the lineages of a list; unknown ranks are part of them."""
        self.taxa = taxa
        lineages: dict[str, list[tuple[str, ...]]] = {}
        for rank in RANKS[:-1]:
            lineages[rank] = [taxon.lineage(rank) for taxon in taxa]
        lineages[_BINOMIAL] = [(*t.lineage("genus"), t.species.partition(" ")[0]) for t in taxa]
        lineages["species"] = [taxon.ranks for taxon in taxa]
        levels = []
        self._nodes: dict[tuple[str, str], list[tuple[int, tuple[str, ...]]]] = {}
        start = 0
        for rank, of_taxa in lineages.items():
            distinct, own = number(of_taxa)
            levels.append(own)
            for node, lineage in enumerate(distinct, start):
                if name := _name(rank, lineage):
                    self._nodes.setdefault((rank, name), []).append((node, lineage))
            start += len(distinct)
        self.tree = Tree.of(levels, apart=_CLASS + 1)

    def find(self, taxon: Taxon) -> int | None:
        """The node that a taxon is, or of a subspecies its species; None for one of no node.

        A name of several kingdoms is that of its own; other ranks decide between namesakes.
        """
        rank = taxon.deepest_rank
        if rank is None:
            return None
        wanted = [(rank, taxon.scientific_name)]
        if rank == "species":
            wanted.append((_BINOMIAL, f"{taxon.genus} {taxon.species.partition(' ')[0]}"))
        for key in wanted:
            nodes = [
                (sum(map(_agrees, lineage, taxon.ranks)), -node)
                for node, lineage in self._nodes.get(key, ())
                if not lineage[0] or not taxon.kingdom or lineage[0] == taxon.kingdom
            ]
            if nodes:
                return -max(nodes)[1]
        return None


def _name(rank: str, lineage: tuple[str, ...]) -> str:
    if rank not in (_BINOMIAL, "species"):
        return lineage[-1]
    return f"{lineage[-2]} {lineage[-1]}" if lineage[-2] and lineage[-1] else ""


def _agrees(one: str, two: str) -> bool:
    return bool(one) and one == two
