"""What a timm model is made of, read from the model itself in one watched forward pass."""

from spaces.anatomy.anatomy import Anatomy, Branch, Stage, anatomy_of, channel_axis, input_size

__all__ = ["Anatomy", "Branch", "Stage", "anatomy_of", "channel_axis", "input_size"]
