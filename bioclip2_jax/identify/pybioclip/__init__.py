"""pybioclip's classifiers, on our models: a script for it runs after changing the import.

    from bioclip2_jax.identify.pybioclip import TreeOfLifeClassifier, Rank

The interface is that of pybioclip 2.1.6 (https://github.com/Imageomics/pybioclip), written anew.
Arrays are numpy's where it has torch's; `docs/pybioclip.md` lists what differs.
"""

from bioclip2_jax.identify.pybioclip.base import BaseClassifier as BaseClassifier
from bioclip2_jax.identify.pybioclip.custom import (
    CustomLabelsBinningClassifier as CustomLabelsBinningClassifier,
)
from bioclip2_jax.identify.pybioclip.custom import CustomLabelsClassifier as CustomLabelsClassifier
from bioclip2_jax.identify.pybioclip.custom import (
    predict_classifications_from_list as predict_classifications_from_list,
)
from bioclip2_jax.identify.pybioclip.names import BIOCLIP_MODEL_STR as BIOCLIP_MODEL_STR
from bioclip2_jax.identify.pybioclip.names import BIOCLIP_V1_MODEL_STR as BIOCLIP_V1_MODEL_STR
from bioclip2_jax.identify.pybioclip.names import BIOCLIP_V2_MODEL_STR as BIOCLIP_V2_MODEL_STR
from bioclip2_jax.identify.pybioclip.names import Rank as Rank
from bioclip2_jax.identify.pybioclip.tree import TreeOfLifeClassifier as TreeOfLifeClassifier
from bioclip2_jax.identify.pybioclip.tree import predict_classification as predict_classification
