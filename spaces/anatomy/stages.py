"""Where the stages of a network are: runs of blocks, found in one watched forward pass.

Blocks are the children of containers (sequences, lists) in which residual branches are added. A network
without residual branches has its blocks in containers of parts of one kind (DenseNet), or is a run of
convolutions, cut where the resolution changes (VGG). Knows modules and `spaces.anatomy.trace`, no names of models.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from spaces.anatomy.trace import Trace

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A run of blocks.

    Attributes:
        root: the module that holds the stage and nothing of another, as `layer1` or `stages.0`; the first
            block where there is no such module.
        blocks: its blocks in order of execution.
    """

    root: str
    blocks: tuple[str, ...]

    def holds(self, path: str) -> bool:
        return any(inside(path, part) for part in (self.root, *self.blocks))


def inside(path: str, parent: str) -> bool:
    return path == parent or path.startswith(f"{parent}.")


def ancestors(path: str) -> Iterator[str]:
    """The path itself, then its parents, without the root."""
    while path:
        yield path
        path = path.rpartition(".")[0]


class Places:
    """Which stage each module of a traced model belongs to."""

    def __init__(self, model: nn.Module, trace: Trace):
        self._model, self._ranks = model, {path: rank for rank, path in enumerate(trace.order)}
        self.stages = tuple(self._stages(trace))

    def rank(self, path: str) -> int:
        """The place of a module in order of execution; after all others if it is never called."""
        return self._ranks.get(path, len(self._ranks))

    def stage_of(self, path: str) -> int | None:
        """The stage that holds a module."""
        return next((index for index, stage in enumerate(self.stages) if stage.holds(path)), None)

    def owner(self, path: str) -> int | None:
        """The stage that a module goes with: what runs before a stage belongs to it, the head to none.

        What has no layer of its own (a norm, an activation) goes with the layer before it.
        """
        stage = self.stage_of(path)
        if stage is not None:
            return stage
        if not self.stages:
            return 0
        place = self.rank(path) if path else -1
        if path and not _has_layer(self._model.get_submodule(path)):
            before = [layer for layer in self._layers if self.rank(layer) < place]
            if before and (owner := self.stage_of(before[-1])) is not None:
                return owner
        return next((index for index, start in enumerate(self._starts) if place < start), None)

    def normed(self, layer: str) -> str:
        """The norm that is called right after a layer; the layer where that is none."""
        after = next((path for path, rank in self._ranks.items() if rank == self.rank(layer) + 1), layer)
        module = self._model.get_submodule(after)
        return after if any(True for _ in module.parameters()) and not _has_layer(module) else layer

    @cached_property
    def _starts(self) -> list[int]:
        return [min(map(self.rank, (stage.root, *stage.blocks))) for stage in self.stages]

    @cached_property
    def _layers(self) -> list[str]:
        """Called modules with matrices or kernels of their own, in order of execution."""
        return [path for path in self._ranks if _has_layer(self._model.get_submodule(path), recurse=False)]

    def _stages(self, trace: Trace) -> Iterator[Stage]:
        containers = self._residual(trace) or self._uniform()
        if not containers:
            yield from self._runs(trace)
            return
        inner = [one for one in containers if not any(inside(other, one) for other in containers if other != one)]
        roots = {container: self._root(container, inner) for container in inner}
        for container, root in list(roots.items()):
            for sibling in self._siblings(root, container.removeprefix(root), list(roots.values())):
                roots[sibling + container.removeprefix(root)] = sibling
        for container in sorted(roots, key=lambda path: self.rank(self._blocks(path)[0])):
            yield Stage(root=roots[container], blocks=self._blocks(container))

    def _residual(self, trace: Trace) -> list[str]:
        """The containers in which residual additions happen."""
        found: list[str] = []
        for addition in trace.additions:
            parent = addition.module.rpartition(".")[0]
            container = next((path for path in ancestors(parent) if self._holds_blocks(path)), parent)
            if container and container not in found:
                found.append(container)
        return found

    def _uniform(self) -> list[str]:
        """Called containers of two or more parts of one class that have layers and are no containers themselves."""
        found = []
        for path, module in self._model.named_modules():
            parts = [part for part in module.children() if isinstance(module, _CONTAINERS) and _is_block(part)]
            if len(parts) > 1 and len(set(map(type, parts))) == 1 and not isinstance(parts[0], _CONTAINERS):
                found.append(path)
        return found

    def _holds_blocks(self, path: str) -> bool:
        module = self._model.get_submodule(path)
        return isinstance(module, _CONTAINERS) and 2 * sum(map(_is_block, module.children())) > len(module)

    def _root(self, container: str, containers: list[str]) -> str:
        """As far up as there is one child, or a module of its own class, and no other container."""
        root = container
        for parent in ancestors(container.rpartition(".")[0]):
            module = self._model.get_submodule(parent)
            if any(inside(other, parent) for other in containers if other != container):
                break
            if isinstance(module, _CONTAINERS) and sum(map(_is_block, module.children())) > 1:
                break
            root = parent
        return root

    def _siblings(self, root: str, suffix: str, roots: list[str]) -> Iterator[str]:
        """Parts beside a stage that are made as stages are, but in which nothing is added."""
        parent = root.rpartition(".")[0]
        if not parent or not isinstance(self._model.get_submodule(parent), _CONTAINERS):
            return
        for name, part in self._model.get_submodule(parent).named_children():
            path = f"{parent}.{name}"
            has = {f".{below}" if below else "" for below, _ in part.named_modules()}
            if suffix in has and self._holds_blocks(path + suffix) and not any(inside(other, path) for other in roots):
                yield path

    def _blocks(self, container: str) -> tuple[str, ...]:
        parts = self._model.get_submodule(container).named_children()
        return tuple(sorted((f"{container}.{name}" for name, part in parts if _has_layer(part)), key=self.rank))

    def _runs(self, trace: Trace) -> Iterator[Stage]:
        """Convolutions of one resolution that follow each other."""
        run: list[str] = []
        size: tuple[int, ...] = ()
        for path in self._ranks:
            if not isinstance(self._model.get_submodule(path), nn.Conv2d) or len(trace.outputs.get(path, ())) != 4:
                continue
            here = tuple(dim.find().size for dim in trace.outputs[path][2:])
            if run and here != size:
                yield Stage(root=run[0], blocks=tuple(run))
                run = []
            size = here
            run += [path] if max(here) > 1 else []
        if run:
            yield Stage(root=run[0], blocks=tuple(run))


def _has_layer(module: nn.Module, *, recurse: bool = True) -> bool:
    return any(parameter.ndim >= 2 for parameter in module.parameters(recurse))


def _is_block(part: nn.Module) -> bool:
    return any(True for _ in part.children()) and _has_layer(part)
