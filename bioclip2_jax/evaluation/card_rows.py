"""What the card of a model says of its evaluation."""

from bioclip2_jax.data import buckets
from bioclip2_jax.evaluation import schema
from bioclip2_jax.weights.card import FewShot, Results, ZeroShot
from bioclip2_jax.weights.open import Source


def results_of(source: Source) -> Results | None:
    """The results of a checkpoint that lie in its workdir; None where it was not evaluated.

    Raises:
      UserError: one of them is damaged.
    """
    folder = source.path / "eval" / str(source.step)
    if source.kind != "checkpoint" or not (folder / "zero_shot.json").is_file():
        return None
    # By number: the lists of support pictures lie beside the results.
    few_shot = buckets.named(folder, "few_shot_[0-9].json")
    return Results(
        zero_shot=schema.read(folder / "zero_shot.json", ZeroShot),
        few_shot=[schema.read(path, FewShot) for path in few_shot],
    )
