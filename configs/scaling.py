"""The scaling study (`bioclip2 analyze scaling`): what varies, what is claimed, and the pictures.

The claims were written before any tree of the study was trained on; trees 900 and 901, which are
none of them, showed how large the scales may be. Signs are the paper's. `least` is a change a
doubling that would not matter: over the six doublings of pictures it comes to 0.05 of a
correlation, 0.01 of shares and of Fisher's ratio, 0.02 of an accuracy. A claim holds at a corrected
p of 0.05 with the claimed sign, and is refuted where the whole interval of its slope lies below
`least`; otherwise the study has not answered it.
"""

from ml_collections import ConfigDict

from configs import common

VARIANTS = {"sex": "sex (of a shared kind)", "life_stage": "life stage (of a kind of their own)"}

# Name → (claim, measure, what is subtracted, sign, least).
ALIGNED = {
    f"{kind}_{who}": (
        f"{said} of species {seen} order the features",
        f"{kind}_{who}",
        "",
        +1,
        0.008,
    )
    for kind, said in (("inherited", "inherited traits"), ("convergent", "convergent traits"))
    for who, seen in (("unseen", "never seen"), ("seen", "trained on"))
}
VARIED = {
    f"{name}_{variant}": (f"{said} {what}", measure, beside, sign, least)
    for variant, said in VARIANTS.items()
    for name, what, measure, beside, sign, least in (
        ("plane", "leaves the plane of three species", f"plane_{variant}", "", -1, 0.001),
        (
            "rho",
            "leaves the species' space more than random divisions do",
            f"halves_{variant}",
            f"null_{variant}",
            -1,
            0.002,
        ),
        ("fisher", "becomes easier to tell (Fisher)", f"fisher_{variant}", "", +1, 0.002),
        (
            "fisher_removed",
            "becomes easier to tell without the species' space",
            f"fisher_removed_{variant}",
            "",
            +1,
            0.002,
        ),
        ("few_shot", "is learned better from five pictures", f"few_shot_{variant}", "", +1, 0.004),
    )
}
# The hierarchy of the captions is said to be what brings the order.
HIERARCHY = {
    f"{name}_by_hierarchy": (f"{said}, faster than with flat names", measure, "", sign, least)
    for name, (said, measure, _, sign, least) in ALIGNED.items()
    if name.endswith("_unseen")
}
ARMS = [(c, r) for c in ("hierarchical", "level", "flat") for r in (True, False)]
GROWING = ("species", "images", "steps")


def get_claims() -> tuple[ConfigDict, ...]:
    """All of them; the family "paper" is the paper's own model: lineages, with replay."""
    claims = [_claim("paper", name, row) for name, row in (ALIGNED | VARIED).items()]
    claims += [_claim("paper", name, row, against="flat") for name, row in HIERARCHY.items()]
    named = ("species are named", "zero_shot", "", +1, 0.008)
    claims.append(_claim("check", "zero_shot", named))
    for captions, replay in ARMS[1:]:
        family = f"{captions} captions, {'replay' if replay else 'no replay'}"
        claims += [
            _claim(family, name, row, captions=captions, replay=replay)
            for name, row in (ALIGNED | VARIED).items()
        ]
    claims += [
        _claim("random start", name, row, world="scratch", replay=False)
        for name, row in (ALIGNED | VARIED).items()
    ]
    alone = ("inherited_unseen", "convergent_unseen", "rho_sex", "rho_life_stage")
    claims += [
        _claim(f"{grows} alone", name, row, grows=grows, replay=False)
        for grows in GROWING
        for name, row in (ALIGNED | VARIED).items()
        if name in alone or name.startswith("fisher_removed")
    ]
    return tuple(claims)


def _claim(family: str, name: str, row: tuple, **models) -> ConfigDict:
    claim, measure, beside, sign, least = row
    said = {"claim": claim, "measure": measure, "beside": beside, "sign": sign, "least": least}
    return ConfigDict({"family": family, "name": name} | said | models)


def get_config() -> ConfigDict:
    """The study, and the recipe of its models of pictures, whose data and start it sets."""
    config = common.get_config()
    config.study = ConfigDict()
    config.study.factors = ConfigDict(
        {
            "trees": 12,
            "first_tree": 100,
            "branches": (4, 4, 4, 8),  # orders, families, genera, species: 512 of them
            "unseen": 64,
            "species": (28, 56, 112, 224, 448),
            "images": (500, 1500, 4500, 13500, 40500),
            "steps": (16, 48, 144, 432, 1296),  # four epochs at any scale
            "alone": 2,
            "captions": ("hierarchical", "level", "flat"),
            "shuffles": 12,
        }
    )
    config.study.pictures = ConfigDict(
        {
            "seeds": 1,
            "tree": 420,
            "unseen": 24,
            "species": (20, 60),
            "images": (500, 12800),
            "steps": (16, 400),
            "captions": ("hierarchical", "level", "flat"),
            "general_images": 6000,
            "general_steps": 320,
            "per_cell": 10,
        }
    )
    config.study.claims = get_claims()

    config.model.name = "tiny"
    config.model.dtype = "float32"  # CPUs have no fast bfloat16
    config.model.scan = False
    config.model.remat = "none"
    # As when the published figures were made.
    config.data.decode, config.data.order = "pillow", 1
    config.train.batch_size = 128
    config.train.replay_batch_size = 32
    config.train.level_weight = 0.5  # of the models with level captions
    config.train.patch_keep = 0.5  # half the work, a little accuracy
    config.train.learning_rate = 5e-4
    config.train.warmup_steps = 30
    config.train.checkpoint_every = 1000  # the last step alone
    return config
