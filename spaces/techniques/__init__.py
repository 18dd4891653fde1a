"""Every dimension, in the one order in which they are composed: shapes first, sharing, then what is added.

The order is part of an architecture's identity: width, group_size, norm, sharing, layer_attention, scaling.
Sharing comes before scaling, so that scales stay private.
"""

from spaces.techniques.base import Choice, NotApplicable, PerStage, Technique
from spaces.techniques.group_size import GroupSize
from spaces.techniques.layer_attention import LayerAttention
from spaces.techniques.norm import Norm
from spaces.techniques.scaling import Scaling
from spaces.techniques.sharing import Sharing
from spaces.techniques.width import Width

TECHNIQUES: dict[str, Technique] = {
    technique.name: technique for technique in (Width(), GroupSize(), Norm(), Sharing(), LayerAttention(), Scaling())
}

__all__ = ["TECHNIQUES", "Choice", "NotApplicable", "PerStage", "Technique"]
