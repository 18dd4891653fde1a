"""Every dimension, in the one order in which they are composed.

The order is part of an architecture's identity: width, group_size, norm, sharing, scaling, layer_attention.
Shapes come first. Sharing comes before scaling, so that scales stay private; layer attention wraps whole
blocks, and comes last.
"""

from spaces.techniques.base import Choice, Knob, NotApplicable, PerStage, Scalar, Technique, kind_of, values_of
from spaces.techniques.group_size import GroupSize
from spaces.techniques.layer_attention import LayerAttention
from spaces.techniques.norm import Norm
from spaces.techniques.scaling import Scaling
from spaces.techniques.sharing import Sharing
from spaces.techniques.width import Width

TECHNIQUES: dict[str, Technique] = {
    technique.name: technique for technique in (Width(), GroupSize(), Norm(), Sharing(), Scaling(), LayerAttention())
}

__all__ = ["TECHNIQUES", "Choice", "Knob", "NotApplicable", "PerStage", "Scalar", "Technique", "kind_of", "values_of"]
