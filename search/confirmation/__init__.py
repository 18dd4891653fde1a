"""What holds when a front is trained again: several seeds, the test split, the backbones as timm has them beside it."""
