"""A classifier seen from its layers: activations by name, and the head from a layer to the logits.

How a layer is found and the graph cut there is in `harness.cutting`; here networks run.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .affine import AffineEnd, end_instead, obstacle
from .cutting import Layers
from .ending import POOLING, Ending, is_affine, last_linear
from .graph import Traced
from .heads import Head, LayerValues, Passes, Targets, target_gradients
from .modules import frozen
from .outputs import Output, checked, reading
from .reduced import Passes as Reduced
from .trunk import Trunk

Activation = Literal["softmax", "sigmoid", "binary"]
NO_VIEW = "view size is not compatible"  # what torch says of `view` in a layout that it cannot read
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow converts to grey


class Network:
    """A frozen classifier in eval mode with its input normalisation and its output activation.

    The module itself is frozen, not a copy: it goes to eval mode, its parameters ask for no gradients any more, and it
    moves where `to` says. What wraps it (torch.compile, DataParallel) is taken off (`modules.frozen`).

    Args:
        module: logits [B,C] from normalised images [B,3,H,W].
        mean, std: per-channel normalisation of images in [0,1]; of one channel for a network of grey images.
        activation: softmax (one class an image), sigmoid (several), or binary: one logit z, [B] or [B,1], is two
            classes, the logits [-z, z] under a sigmoid.
        fingerprint: digest of the weights, part of a cell's identity.
        groups: outputs that count as one class, when the network is read as a classifier of other classes:
            class g scores the highest of its members' logits, and explaining it means explaining that member.
            A class without members can be neither predicted nor explained.
        input_size: (height, width) of the images that the weights were made for, where that is known.
        output: which of a tuple's members or a mapping's entries are the logits, where the module returns several.
    """

    def __init__(
        self,
        module: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        activation: Activation = "softmax",
        fingerprint: str = "",
        groups: Sequence[Sequence[int]] | None = None,
        input_size: tuple[int, int] | None = None,
        output: Output | None = None,
    ) -> None:
        if activation not in ("softmax", "sigmoid", "binary"):
            raise ValueError(f"activation={activation!r}: choose softmax, sigmoid or binary")
        is_binary = activation == "binary"
        self.module = reading(frozen(module), output, is_binary)
        torch.backends.mha.set_fastpath_enabled(False)  # its fused path has no graph, and other last digits
        self._statistics = [torch.tensor(list(v), dtype=torch.float64).view(1, -1, 1, 1) for v in (mean, std)]
        self.mean, self.std = (v.float() for v in self._statistics)
        self.activation: Activation = "sigmoid" if is_binary else activation
        self.fingerprint = fingerprint
        self.groups, self.input_size = groups, input_size
        self.cells = 1  # a side: more where one input is a grid of images that do not see one another
        self.made_of: dict[str, Any] | None = None  # the settings of the config that made it
        self.notes: list[str] = []  # what the loading of weights decided by itself
        self.places: Mapping[str, str] = {}  # what a config calls layers that it leaves to the network -> the layers
        self.classes: Sequence[str] | None = None  # names of the outputs, in their order, where they are known
        self.reads = [output, activation]  # which of the module's outputs, and as what
        self.passes, self.reduced = Passes(), Reduced()
        self._takes_channels_last = True
        self.memory_format: torch.memory_format | None = None  # that was asked for

    @cached_property
    def ending(self) -> Ending | None:
        """The last linear layer on the way to the logits; None without one, or where outputs are grouped into classes.

        Where the module cannot be traced, or its graph says nothing: the layer registered last, if there is one.
        """
        return None if self.groups is not None else last_linear(self.module, lambda: self._traced)

    @cached_property
    def affine_end(self) -> AffineEnd | None:
        """Where no linear layer makes the logits, what they are an affine function of (`harness.affine`)."""
        return None if self.groups is not None else end_instead(self.module, lambda: self._traced)

    def obstacle(self) -> str | None:
        """The last operation before the logits that is not affine, as the graph calls it; None where none is known."""
        return obstacle(lambda: self._traced)

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        memory_format: torch.memory_format | None = None,
    ) -> "Network":
        """Move the network to a device, a floating-point type and a memory layout.

        memory_format: `channels_last` of the convolutions' weights, which makes these compute in it;
            `contiguous_format`: the usual layout, in `infer` as well; None: what it is.
        """
        self.module.to(device=device, dtype=dtype)
        if memory_format is not None:
            self.module.to(memory_format=memory_format)
            self.memory_format, self._takes_channels_last = memory_format, memory_format == torch.channels_last
        like = torch.empty(0, device=self.mean.device, dtype=self.mean.dtype).to(device=device, dtype=dtype)
        self.mean, self.std = (v.to(like) for v in self._statistics)
        self._forget()
        return self

    def twin(self) -> "Network":
        """The same network with weights of its own to be changed; its passes are counted with ours."""
        made = copy.copy(self)
        made.module = copy.deepcopy(self.module)
        made._forget()
        return made

    def _forget(self) -> None:
        """What was found of the module is to be found anew."""
        for made in ("_layers", "ending", "affine_end"):
            self.__dict__.pop(made, None)

    @property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, in double precision."""
        mean, std = (values.flatten().tolist() for values in self._statistics)
        return mean, std

    def normalise(self, images: Tensor) -> Tensor:
        """Images [B,3,H,W] in [0,1] -> normalised network input; grey ones [B,1,H,W] where the mean has one channel."""
        pixels = images.to(self.mean)
        if self.mean.shape[1] == 1 and pixels.shape[1] == 3:
            pixels = (pixels * pixels.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
        return (pixels - self.mean) / self.std

    def __call__(self, inputs: Tensor) -> Tensor:
        """Logits [B,C] of normalised inputs, through the module itself."""
        self.passes.forward += len(inputs)
        outputs = self.reduced(self.module, inputs.clone())  # a first layer may write in place, not into ours
        return checked(outputs, type(self.module).__name__, len(inputs))

    @torch.no_grad()
    def infer(self, inputs: Tensor) -> Tensor:
        """Logits [R,C] of many inputs made for one purpose (masked, perturbed): equal to calling it up to rounding.

        On a CPU in the memory layout in which convolutions are faster (1.2 to 1.4 times); a network that flattens by
        `view` accepts the usual layout alone, and is given that.
        """
        if inputs.device.type == "cpu" and self._takes_channels_last:
            try:
                return self(inputs.contiguous(memory_format=torch.channels_last))
            except RuntimeError as error:
                if NO_VIEW not in str(error):
                    raise
            self.passes.forward -= len(inputs)
            self._takes_channels_last = False
        return self(inputs)

    def gradient(self, inputs: Tensor, targets: Targets, copies: int = 1) -> Tensor:
        """Gradient of each pair's logit at normalised inputs [S*B,3,H,W], S copies of the batch: [S,P,3,H,W]."""
        leaf = inputs.detach().requires_grad_()
        with torch.enable_grad():
            logits = self(leaf)
        self.passes.backward += len(inputs) * len(targets.rounds())
        return target_gradients(logits, leaf, targets, copies)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities [B,C] under the network's output activation.

        A group's is the sum of its members' where they exclude each other (softmax), their largest otherwise.
        """
        each = self.output_probabilities(logits)
        if self.groups is None:
            return each
        if self.activation == "sigmoid":
            return self.scores(logits).sigmoid()
        return torch.stack([each[:, list(members)].sum(1) for members in self.groups], 1)

    def output_probabilities(self, logits: Tensor) -> Tensor:
        """Probability of each output, also where outputs are grouped into classes; the shape of the logits [R,C]."""
        return logits.softmax(1) if self.activation == "softmax" else logits.sigmoid()

    def predicts(self, logits: Tensor) -> Tensor:
        """Which classes are predicted, bool [R,C]: the best one (softmax), those of at least 0.5 (sigmoid).

        Grouped outputs are not exclusive, so a group is predicted when either is true.
        """
        scores = self.scores(logits)
        best = torch.nn.functional.one_hot(scores.argmax(1), scores.shape[1]).bool()
        if self.groups is None and self.activation == "softmax":
            return best
        likely = self.probabilities(logits) >= 0.5
        return likely if self.groups is None else best | likely

    def scores(self, logits: Tensor) -> Tensor:
        """Logit of each class [B,C]; a group's is its highest member's, -inf without members."""
        if self.groups is None:
            return logits
        empty = logits.new_full((len(logits),), -torch.inf)
        return torch.stack([logits[:, list(m)].amax(1) if len(m) else empty for m in self.groups], 1)

    def explains(self, label: int) -> bool:
        """Whether the class has an output of its own or members."""
        return self.groups is None or len(self.groups[label]) > 0

    def outputs_of(self, targets: Targets, logits: Tensor) -> Targets:
        """The output that stands for each pair's class: itself, or the group's highest member in that image."""
        if self.groups is None:
            return targets
        members = self._members.to(logits.device)[targets.label]  # [P,M]
        highest = logits[targets.image[:, None], members].argmax(1, keepdim=True)
        return targets.labelled(members.gather(1, highest)[:, 0])

    @cached_property
    def _members(self) -> Tensor:
        """Outputs of each group [G,M], the first one repeated where a group has fewer (0 where it has none)."""
        groups = [list(group) for group in self.groups or []]
        width = max(map(len, groups), default=0)
        return torch.tensor([group + (group or [0])[:1] * (width - len(group)) for group in groups])

    @cached_property
    def _layers(self) -> Layers:
        return Layers(self.module, self.mean, self.input_size)

    @property
    def _traced(self) -> Traced:
        return self._layers.traced

    @property
    def cut_by(self) -> str | None:
        """What made the graph in which layers are cut: fx, export; None: none was needed, or could be made."""
        return self._layers.made_by

    def layers(self) -> list[str]:
        """Names of all layers: module paths and functional ops."""
        return list(self._traced.layers)

    def maps(self, inputs: Tensor) -> list[str]:
        """Names of some layers that are maps of these inputs [B,3,H,W], the last ones first."""
        return self._layers.maps(inputs)

    def check_layer(self, layer: str) -> None:
        """Raise ValueError, with near names, unless the layer exists and leads to the logits."""
        self._layers.cut(layer)

    def source(self, layer: str) -> str:
        """What a layer reads first: the name of another layer, or of the network's input, which is none."""
        return self._layers.node(layer).all_input_nodes[0].name

    def knows_layout(self, layer: str) -> bool:
        """Whether a layer's layout was given with its name (`layouts.seen_as`), or its graph leaves no doubt."""
        return self._layers.layout(layer) != "unsure"

    def has_channels_first(self, layer: str) -> bool:
        """Whether nothing in the graph, where there is one, says or leaves open that a layer's channels come last."""
        try:
            return self._layers.layout(layer) in ("nchw", None)
        except ValueError:
            return True

    def fit(self, inputs: Tensor) -> None:
        """From here on layers are cut in a graph for images of the size of these, [B,C,H,W]."""
        self._layers = self._layers.fit(inputs)

    def run(self, inputs: Tensor, layers: tuple[str, ...]) -> tuple[Tensor, dict[str, LayerValues]]:
        """One forward pass: logits [B,C], and the values at each named layer."""
        if not layers:
            return self(inputs), {}
        self.fit(inputs)
        tapped = self._layers.tap(layers, inputs)
        self.passes.forward += len(inputs)
        logits, values = tapped(inputs)
        return logits, {name: LayerValues(kept[0], tuple(kept[1:])) for name, kept in zip(layers, values, strict=True)}

    @torch.no_grad()
    def prefix(self, inputs: Tensor, layer: str) -> LayerValues:
        """A layer's values, without running on to the logits; counted as a forward pass."""
        self.fit(inputs)
        to_layer = self._layers.prefix(inputs, layer)
        self.passes.forward += len(inputs)
        activation, *crossing = to_layer(inputs)
        return LayerValues(activation, tuple(crossing))

    def is_affine_behind(self, layer: str) -> bool:
        """Whether the logits are an affine function of a layer (average pooling, a linear layer), as the graph says."""
        return is_affine(self._layers.cut(layer).head, POOLING)

    def trunk(self, inputs: Tensor) -> Trunk:
        """Of a network of attentions, for inputs of this size; ValueError where there is none (`harness.trunk`)."""
        self.fit(inputs)
        return self._layers.trunk

    def head(self, layer: str, constants: tuple[Any, ...]) -> Head:
        """The head from `layer`, for a batch whose crossing values are `constants`."""
        return Head(self._layers.cut(layer), constants, self.passes)
