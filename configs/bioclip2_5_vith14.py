"""BioCLIP 2.5 Huge: ViT-H/14 from LAION-2B weights on the 233 M image TreeOfLife-200M.

Its batch size, epochs and hardware are not published; these are BioCLIP 2's.
"""

from ml_collections import ConfigDict

from configs import bioclip2_vitl14


def get_config() -> ConfigDict:
    """BioCLIP 2's recipe with the larger model and the later revision of the data."""
    config = bioclip2_vitl14.get_config()
    config.model.name = "vit_h14"
    config.data.dir = "data/treeoflife_233m"
    config.train.steps = 30 * 2592  # ceil(233 M / 90,112) rounded up to 8 loaders, 30 times
    return config
