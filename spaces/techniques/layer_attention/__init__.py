"""layer_attention: after each block of a stage, attention over the outputs of the blocks before it.

A layer is a block with a residual addition whose output is one tensor of the stage's shape: [N, C, H, W], with a
batch norm after the attention as in the reference's ResNets, or [N, tokens, C] and [N, H, W, C], with a layer norm
before it as in its DeiTs. The attentions are modules of their own, at `layer_attention` of the network, and come
in by hooks: names and classes of the backbone stay. Its weights are drawn anew whatever those of the backbone
are, and the last gain of a residual branch stays as the backbone starts it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar

from timm.layers import DropPath
from torch import nn

from spaces.anatomy import Anatomy
from spaces.anatomy.dims import Dim
from spaces.resizing.sizing import divisors, sizes, stages_of
from spaces.techniques.base import Choice, Knob, NotApplicable, PerStage, Scalar, Technique, kind_of, values_of
from spaces.techniques.layer_attention.ela import Gate, Policy, SkipController
from spaces.techniques.layer_attention.history import History
from spaces.techniques.layer_attention.mrla import (
    BaseAttention,
    BaseLayer,
    Following,
    LightAttention,
    LightLayer,
    OnMaps,
    OnTokens,
    Tap,
)
from spaces.techniques.layer_attention.places import Place, first_branch, places, runs, widths
from spaces.techniques.layer_attention.rules import RULES
from spaces.techniques.width import chosen_scales

HEAD_DIMS = {"mrla_base": 16, "mrla_light": 32}  # of the reference's ResNets; its DeiTs have 16 in both forms
FIRST_GATE = 2  # of a run: attention over one layer, which is what the second shares with the first, cannot differ


class LayerAttention(Technique):
    name: ClassVar[str] = "layer_attention"
    default: ClassVar[Choice] = "none"
    choices: ClassVar[Mapping[str, str]] = {
        "none": "no attention between layers",
        "mrla_base": "every layer attends to all layers before it in its stage (four blocks of a transformer)",
        "mrla_light": "every layer attends to itself and carries on the shortcut of its block",
        "ela": "mrla_base, of which layers found redundant are skipped (ELA-style, reconstructed from the abstract)",
    }
    knobs: ClassVar[Mapping[str, Knob]] = {
        "head_dim": Knob(
            kinds=("mrla_base", "mrla_light", "ela"),
            default=0,
            low=0,
            high=4096,
            whole=True,
            meaning="channels of a head, or the nearest divisor of the width; 0 as published: 16, 32 of light on maps",
        ),
        "skip_threshold": Knob(
            kinds=("ela",),
            default=0.3,
            above=0.0,
            below=1.0,
            meaning="beta_quantile: a layer is skipped where the quantile of its divergence from the one before is "
            "below, if that is below 0.05 nats; percentile, random: the share that is skipped; kl_threshold: in nats",
        ),
        "rule": Knob(
            kinds=("ela",), default="beta_quantile", allowed=tuple(RULES), meaning="by which layers are skipped"
        ),
        "warm_up": Knob(
            kinds=("ela",), default=0.1, low=0.0, below=1.0, meaning="share of the epochs in which none is skipped"
        ),
        "probe_every": Knob(
            kinds=("ela",),
            default=10,
            low=0,
            high=10_000,
            whole=True,
            meaning="epochs after which skipped layers train for one, to be measured anew; 0: once skipped, for good",
        ),
    }
    after: ClassVar[tuple[str, ...]] = ("width",)
    paper: ClassVar[str] = "2302.03985 (MRLA), 2503.06473 (ELA)"

    def canonical(self, choices: PerStage, anatomy: Anatomy, before: Mapping[str, PerStage]) -> PerStage:
        found = tuple(self._effect(choice, anatomy, stage, before) for stage, choice in enumerate(choices))
        if all(choice == "none" for choice in found) and any(choice != "none" for choice in choices):
            raise NotApplicable(_reason(anatomy))
        return found

    def sees(self, anatomy: Anatomy, stage: int) -> Collection[int]:
        leaves = {leaf for axis in _axes(anatomy, stage) for leaf in axis.leaves()} if anatomy.stages else ()
        return {stages_of(anatomy)[leaf] for leaf in leaves if leaf in stages_of(anatomy)}

    def _effect(self, choice: Choice, anatomy: Anatomy, stage: int, before: Mapping[str, PerStage]) -> Choice:
        if choice == "none" or not anatomy.stages or not places(anatomy, stage):
            return "none"
        kind, values = kind_of(choice), values_of(choice)
        if kind == "ela" and all(len(run) <= FIRST_GATE for run in runs(places(anatomy, stage))):
            kind, values = "mrla_base", {name: value for name, value in values.items() if name == "head_dim"}
        if values.get("rule") == "none":  # which is asked nothing
            values = {name: value for name, value in values.items() if name in ("head_dim", "rule")}
        if "head_dim" in values:
            size_of = sizes(anatomy, chosen_scales(anatomy, before))
            lengths = [axis.evaluate(size_of) for axis in _axes(anatomy, stage)]
            published = _published(kind, places(anatomy, stage)[0])
            values["head_dim"] = _smallest(lengths, self.value(choice, "head_dim"), published)
        return self.check({"kind": kind, **values})

    def rewrite(self, model: nn.Module, choices: PerStage, anatomy: Anatomy, *, trained: bool) -> None:
        found = {stage: places(anatomy, stage) for stage, choice in enumerate(choices) if choice != "none"}
        lengths = widths(model, anatomy, [place for members in found.values() for place in members])
        reference = next(model.parameters())
        attending, gates = list[nn.ModuleList](), dict[str, Gate]()
        for stage, members in found.items():
            choice, layers = choices[stage], nn.ModuleList()
            size = self.value(choice, "head_dim")
            if kind_of(choice) == "mrla_light":
                pairs = [(place, _light(model, place, lengths[place.block], size)) for place in members]
            else:
                policy = self._policy(choice) if kind_of(choice) == "ela" else None
                pairs = [pair for run in runs(members) for pair in _base(model, run, lengths, size, policy)]
            for place, layer in pairs:
                layer.to(reference.device, reference.dtype)
                model.get_submodule(place.block).register_forward_hook(Following(layer))
                layers.append(layer)
                if isinstance(layer, BaseLayer) and isinstance(layer.gate, Gate):
                    gates[place.block] = layer.gate
            attending.append(layers)
        model.layer_attention = nn.ModuleList(attending)
        if gates:
            model.skip_controller = SkipController(gates, sum(len(layers) for layers in attending)).to(reference.device)

    def _policy(self, choice: Choice) -> Policy:
        return Policy(
            rule=self.value(choice, "rule"),
            threshold=self.value(choice, "skip_threshold"),
            warm_up=self.value(choice, "warm_up"),
            probe_every=self.value(choice, "probe_every"),
        )


def _published(kind: Scalar, place: Place) -> int:
    """The reference's channels of a head: 16, and 32 of the light form of its ResNets."""
    return HEAD_DIMS["mrla_light" if kind == "mrla_light" and place.axis == 1 else "mrla_base"]


def _axes(anatomy: Anatomy, stage: int) -> list[Dim]:
    """The channels of each layer of a stage."""
    return [anatomy.outputs[place.block][place.axis].find() for place in places(anatomy, stage)]


def _smallest(widths: Sequence[int], wanted: int, published: int) -> int:
    """Of all wanted channels of a head that come to the same, the least; 0 where these are as published."""
    found = [head_dim(width, wanted) for width in widths]
    numbers = (*sorted(set(found)), *range(1, wanted + 1))
    same = next(n for n in numbers if [head_dim(width, n) for width in widths] == found)
    return 0 if found == [head_dim(width, published) for width in widths] else same


def _reason(anatomy: Anatomy) -> str:
    if not anatomy.branches:
        return "it has no residual blocks"
    blocks = [block for stage in anatomy.stages for block in stage.blocks if first_branch(anatomy, block)]
    if not any(block in anatomy.outputs for block in blocks):
        return "its residual blocks put out more than one tensor"
    return "no stage chosen has two residual blocks that put out feature maps or square grids of tokens of one shape"


def head_dim(channels: int, wanted: int) -> int:
    """The divisor of `channels` that is nearest to the wanted channels of a head, the smaller of two."""
    return min(divisors(channels), key=lambda d: (abs(d - wanted), d))


def _drop_path(model: nn.Module, place: Place) -> float:
    """The rate of stochastic depth of the block itself."""
    block = model.get_submodule(place.block)
    return max((module.drop_prob or 0.0 for module in block.modules() if isinstance(module, DropPath)), default=0.0)


def _base(
    model: nn.Module, run: tuple[Place, ...], lengths: Mapping[str, int], wanted: int, policy: Policy | None
) -> Iterator[tuple[Place, nn.Module]]:
    gates = [Gate(policy) if policy and position >= FIRST_GATE else None for position in range(len(run))]
    history = History(gates)
    for position, (place, gate) in enumerate(zip(run, gates, strict=True)):
        width, maps = lengths[place.block], place.axis == 1
        size = head_dim(width, wanted or _published("mrla_base", place))
        attention = BaseAttention(width, size, history, position, kaiming=maps)
        update = (
            OnMaps(attention, width, relu=True, drop_path=_drop_path(model, place))
            if maps
            else OnTokens(attention, width, prefix=place.prefix, carries=False)
        )
        yield place, BaseLayer(update, history, position, last=position == len(run) - 1, gate=gate)


def _shortcut(model: nn.Module, place: Place) -> tuple[nn.Module, bool]:
    """What gives or gets the shortcut, and whether it gives it; what is left of a block without branches gets it."""
    try:
        return model.get_submodule(place.shortcut), place.given
    except AttributeError:  # removed with the branch
        return model.get_submodule(place.block), False


def _light(model: nn.Module, place: Place, width: int, wanted: int) -> nn.Module:
    maps, tap = place.axis == 1, Tap()
    shortcut, given = _shortcut(model, place)
    if given:
        shortcut.register_forward_hook(tap)
    else:
        shortcut.register_forward_pre_hook(tap)
    size = head_dim(width, wanted or _published("mrla_light", place))
    if maps:
        attention = LightAttention(width, size, nn.Identity(), kaiming=True)
        return LightLayer(OnMaps(attention, width, relu=False, drop_path=_drop_path(model, place)), tap)
    attention = LightAttention(width, size, nn.GELU(), kaiming=False)
    return LightLayer(OnTokens(attention, width, prefix=place.prefix, carries=True), tap)
