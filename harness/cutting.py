"""The layers of a module by name: its graph, made when it is first asked for, and the graph cut at a layer."""

import difflib
from functools import cached_property

import torch
from torch import Tensor, fx, nn

from .exporting import Values, example, trace_or_export
from .graph import Cut, Traced, check_same, cut_at, up_to, way_to, with_outputs
from .layouts import MARK, are_tokens, as_map, layout_of, reads_last, seen_as
from .outputs import check_traced, checked
from .patches import are_in_order, sources
from .trunk import Trunk, trunk_of

BEHIND = (
    "layout tokens: the last tokens of {layer!r} are read as the image's patches, row by row, and do not follow it: "
    "other tokens (registers, a class token) stand behind or among them, or patches in another order; choose a layer "
    "before that"
)
SIZE = (224, 224)  # of images, where nothing says another


class Layers:
    """What is cut of one module.

    module: logits [B,C] from inputs [B,C,H,W]. like: [1,C,1,1], of the inputs' channels, type and device. size: height
    and width of the images that a graph of torch.export is first made for.
    """

    def __init__(self, module: nn.Module, like: Tensor, size: tuple[int, int] | None) -> None:
        self.module, self.like, self.size = module, like, size or SIZE
        self.name = type(module).__name__
        self._cuts: dict[str, Cut] = {}
        self._places: dict[str, str] = {}
        self._tapped: dict[tuple[str, ...], fx.GraphModule] = {}
        self._prefixes: dict[str, fx.GraphModule] = {}
        self._ordered: dict[fx.Node, bool] = {}
        self._sizes = {self.size: self}

    @cached_property
    def traced(self) -> Traced:
        """The graph; ValueError where there is none."""
        traced = trace_or_export(self.module, lambda: example(self.like, self.size))
        check_traced(traced.module, self.name)
        return traced

    @cached_property
    def trunk(self) -> Trunk:
        """What `trunk_of` finds in a graph of its own, in which no layer is seen as a map."""
        return trunk_of(trace_or_export(self.module, lambda: example(self.like, self.size)), self.module)

    @property
    def made_by(self) -> str | None:
        """What made the graph: fx, export; None: it was not asked for, or there is none."""
        return self.traced.by if "traced" in self.__dict__ else None

    def fit(self, inputs: Tensor) -> "Layers":
        """Itself, or, of an exported graph, the layers of one for images of this size: each is made once."""
        size = (inputs.shape[2], inputs.shape[3])
        if self.made_by == "fx":
            return self
        if size not in self._sizes:
            self._sizes[size] = Layers(self.module, self.like, size)
            self._sizes[size]._sizes = self._sizes
        return self._sizes[size]

    def node(self, layer: str) -> fx.Node:
        """The layer's node; ValueError, with near names, where there is no such layer."""
        known, name = self.traced.layers, layer.partition(MARK)[0]
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            some = ", ".join([each for each in known if "." not in each][:30])
            raise ValueError(f"layer {name!r} is not in {self.name}: {hint}Top-level: {some}")
        return known[name]

    def layout(self, layer: str) -> str | None:
        """As `layouts.layout_of` finds it, or as it is said with the layer's name."""
        _, _, given = self._places.get(layer, layer).partition(MARK)
        return given or layout_of(self.traced.module, self.node(layer))

    def cut(self, layer: str) -> Cut:
        """The graph cut at a layer; ValueError unless the layer exists and leads to the logits."""
        if layer not in self._cuts:
            self.node(layer)
            self._cuts[layer] = cut_at(self.traced, as_map(self.traced, self._places.get(layer, layer)), layer)
        return self._cuts[layer]

    def _place(self, layer: str, image: Tensor) -> None:
        """See a layer of tokens as the map of its patches, where graph and image say that it is one.

        Raises:
            ValueError: it was said to be one, and its patches are not where they are looked for.
        """
        if layer in self._places:
            return
        node, given = self.node(layer), layer.partition(MARK)[2]
        if given == "tokens" or (not given and reads_last(self.traced.module, node)):
            values = self._before(node, image)
            is_grid = node in values and are_tokens(self.traced.module, node, values[node], image)
            is_ordered = is_grid and self._is_ordered(node, values, image)
            if given and is_grid and not is_ordered:
                raise ValueError(BEHIND.format(layer=layer.partition(MARK)[0]))
            if not given and is_ordered:
                self._places[layer] = seen_as(layer, "tokens")
                self._cuts.pop(layer, None)
        self._places.setdefault(layer, layer)

    def _before(self, node: fx.Node, image: Tensor) -> dict[fx.Node, Tensor]:
        """What operations up to a node, itself among them, give for an image."""
        found = Values(up_to(self.traced, cut_at(self.traced, node, node.name))).of(image)
        by_name = {each.name: value for each, value in found.items()}
        return {each: by_name[each.name] for each in way_to(node) if each.name in by_name}

    def _is_ordered(self, node: fx.Node, values: dict[fx.Node, Tensor], image: Tensor) -> bool:
        """Of tokens whether the patches follow the image; found once for all layers made of the same."""
        made = sources(self.traced.module, node, values, image)
        for each in made:
            if each not in self._ordered:
                self._ordered[each] = are_in_order(self.traced, each, image)
        return all(self._ordered[each] for each in made)

    def tap(self, layers: tuple[str, ...], inputs: Tensor) -> fx.GraphModule:
        """The graph that keeps the layers, compared with the module on the first of the inputs when it is new."""
        if layers not in self._tapped:
            image = inputs[:1].detach()
            for name in layers:
                self._place(name, image)
            cuts = [self.cut(name) for name in layers]
            tapped = with_outputs(self.traced, cuts)
            with torch.no_grad():
                expected = checked(self.module(image.clone()), self.name, len(image))
            check_same(expected, tapped, [cut.head for cut in cuts], image, self.name)
            self._tapped[layers] = tapped
        return self._tapped[layers]

    def prefix(self, inputs: Tensor, layer: str) -> fx.GraphModule:
        """The graph up to a layer, without the way on to the logits."""
        self.tap((layer,), inputs)
        if layer not in self._prefixes:
            self._prefixes[layer] = up_to(self.traced, self.cut(layer))
        return self._prefixes[layer]

    def maps(self, images: Tensor, most: int = 6) -> list[str]:
        """Modules whose layers are maps of more than one cell, the last ones first."""
        values = Values(self.traced.module).of(images[:1].detach())
        modules = dict(self.module.named_modules())
        named = [(name, node) for name, node in self.traced.layers.items() if name in modules]
        found = [name for name, node in named if self._is_map(node, values, images)]
        return found[::-1][:most]

    def _is_map(self, node: fx.Node, values: dict[fx.Node, Tensor], images: Tensor) -> bool:
        value = values.get(node)
        if value is None or len(value) != 1:
            return False
        if value.ndim == 4:
            said = layout_of(self.traced.module, node)
            return said in ("nchw", "nhwc") and min(value.shape[2 if said == "nchw" else 1 :][:2]) > 1
        is_grid = reads_last(self.traced.module, node) and are_tokens(self.traced.module, node, value, images)
        return is_grid and self._is_ordered(node, values, images[:1].detach())
