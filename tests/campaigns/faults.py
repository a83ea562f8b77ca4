"""Faults to plant, as data: a text of one file replaced by another, and what the gate must say of it.

Left out are replacements that change no reported number: the mean over channels for the sum in a class-activation map,
say, scales the map, and every metric is of its shape.
"""

from typing import NamedTuple

SCENES, RESNET, CUE = "ci_embedded", "ci_resnet", "ci_cue"
CSV, COCO, VOC, DETECTORS = "ci_csv", "ci_coco", "ci_voc", "ci_detectors"


class Part(NamedTuple):
    """A part of the gate: one of its experiments, narrowed to some methods and metrics."""

    experiment: str
    methods: str = ""
    metrics: str = ""

    @property
    def words(self) -> list[str]:
        """As overrides."""
        chosen = {"method": self.methods, "metric": self.metrics}
        return [f"experiment={self.experiment}", *(f"{key}=[{value}]" for key, value in chosen.items() if value)]


class Fault(NamedTuple):
    """A text that stands once in a file, what is put in its place, the part that is run, and what must be named.

    finding: a pattern of a line of `check`.
    """

    name: str
    file: str
    text: str
    planted: str
    part: Part
    finding: str


POINTING = Part(SCENES, "gradcam,center", "pointing_game,energy_pointing_game,positive_ratio")
CAMS = Part(RESNET, "gradcam,cam", "energy_pointing_game,positive_ratio,shap_cosine")
GRADIENTS = Part(SCENES, "gradient,integrated_gradients,smoothgrad", "energy_pointing_game,aopc")
RELEVANCE = Part(RESNET, "lrp_epsilon,lrp_alpha2beta1,lrp_alpha1beta0", "energy_pointing_game,outside_inside")
CURVES = Part(SCENES, "gradcam", "insertion,perturbation,aopc")
UNKNOWN = Part(DETECTORS, "energy,knn,react,dice,odin,mahalanobis,msp", "ood,error_detection")
RULES, CAM, LOCALIZATION = (
    "methods/attribution/relevance/rules.py",
    "methods/attribution/cam.py",
    "metrics/localization.py",
)
FRAMES, IMAGES, ANNOTATIONS = "harness/frames.py", "datasets/images.py", "datasets/annotations.py"

FAULTS = (
    Fault(
        "sign flip in one rule of LRP",
        RULES,
        "return excited.mul_(self.alpha).sub_(inhibited.mul_(self.beta))",
        "return excited.mul_(self.alpha).add_(inhibited.mul_(self.beta))",
        RELEVANCE,
        "of lrp_alpha2beta1 on scenes_resnet",
    ),
    Fault(
        "sign of the stabiliser",
        RULES,
        "return total.add_(torch.copysign(margin, total, out=size))",
        "return total.sub_(torch.copysign(margin, total, out=size))",
        RELEVANCE,
        "of lrp_epsilon on scenes_resnet",
    ),
    Fault(
        "tolerance of the pointing game, <= for <",
        LOCALIZATION,
        "(distance < sent(",
        "(distance <= sent(",
        POINTING,
        "pointing_game of (center|gradcam)",
    ),
    Fault(
        "FPR conventions swapped",
        "metrics/ood.py",
        'Convention("fpr{}_id_pos", "fpr_id_pos", "index,strict", False, headline=True),\n'
        '    Convention("fpr{}_ood_pos", "fpr_ood_pos", "first_at_least", False),',
        'Convention("fpr{}_id_pos", "fpr_ood_pos", "index,strict", False, headline=True),\n'
        '    Convention("fpr{}_ood_pos", "fpr_id_pos", "first_at_least", False),',
        UNKNOWN,
        "ood of energy .*fpr95_(id|ood)_pos",
    ),
    Fault(
        "another seed of random numbers",
        "harness/seeds.py",
        "[(seed, 0) for seed in self._seeds(per)]",
        "[(seed, 1) for seed in self._seeds(per)]",
        GRADIENTS,
        "of smoothgrad",
    ),
    Fault(
        "normalisation without the mean",
        "harness/network.py",
        "return (pixels - self.mean) / self.std",
        "return pixels / self.std",
        POINTING,
        "of gradcam",
    ),
    Fault(
        "last sample dropped",
        "harness/engine/request.py",
        "stop = min(len(dataset), chosen.limit or len(dataset))",
        "stop = min(len(dataset), chosen.limit or len(dataset)) - 1",
        Part(CSV),
        "pointing_game of center",
    ),
    Fault(
        "stale weights under the same name",
        "harness/networks/embedded/scenes_resnet.safetensors",
        "",
        "other weights",
        POINTING._replace(experiment=RESNET),
        "of gradcam on scenes_resnet",
    ),
    Fault(
        "images resized to the nearest pixel",
        IMAGES,
        "resized = image.resize(size, Image.Resampling.BILINEAR)",
        "resized = image.resize(size, Image.Resampling.NEAREST)",
        Part(CSV),
        "of gradcam on scenes_vgg .gate_csv",
    ),
    Fault(
        "crop one pixel to the right",
        IMAGES,
        "left, top = round((width - self.size) / 2),",
        "left, top = round((width - self.size) / 2) + 1,",
        Part(VOC),
        "of gradcam on scenes_resnet_voc",
    ),
    Fault(
        "boxes of XML off by one",
        ANNOTATIONS,
        "x1 - origin + 1, y1 - origin + 1]",
        "x1 - origin, y1 - origin]",
        Part(VOC),
        "of center on scenes_resnet_voc",
    ),
    Fault(
        "palette of masks off by one",
        "datasets/voc.py",
        "{label: indices == label + 1 for label in targets}",
        "{label: indices == label for label in targets}",
        Part(VOC),
        "miou of gradcam on scenes_resnet_voc",
    ),
    Fault(
        "class index of a COCO JSON off by one",
        "datasets/coco.py",
        "for index, category in enumerate(categories)}",
        "for index, category in enumerate(categories, -1)}",
        Part(COCO),
        "on scenes_resnet .gate_coco",
    ),
    Fault(
        "boxes.csv read with both ends included",
        "datasets/box_files.py",
        "edges = [_number(name, cells[name], where) for name in COLUMNS[2:]]",
        "edges = [_number(name, cells[name], where) + (name in COLUMNS[4:]) for name in COLUMNS[2:]]",
        Part(CSV),
        "energy_pointing_game of gradcam on scenes_vgg .gate_csv",
    ),
    Fault(
        "masks of the frame from the pixel above",
        IMAGES,
        "((torch.arange(length) + 0.5 - offset) / scale)",
        "((torch.arange(length) - 0.5 - offset) / scale)",
        Part(VOC),
        "miou of center on scenes_resnet_voc",
    ),
    Fault(
        "ten resamples of the bootstrap",
        "conf/metric/ood.yaml",
        "resamples: 1000",
        "resamples: 10",
        UNKNOWN,
        "ood of energy",
    ),
    Fault(
        "twenty resamples of images",
        "harness/stats.py",
        "RESAMPLES = 2000",
        "RESAMPLES = 20",
        POINTING,
        "energy_pointing_game of gradcam",
    ),
    Fault(
        "intervals of 90 %",
        "harness/stats.py",
        "LEVEL = 0.95",
        "LEVEL = 0.90",
        POINTING,
        "pointing_game of center",
    ),
    Fault(
        "half precision in class-activation maps",
        CAM,
        "chosen = activation[targets.image]",
        "chosen = activation[targets.image].half().to(activation)",
        CAMS,
        "energy_pointing_game of gradcam",
    ),
    Fault(
        "no ReLU in Grad-CAM",
        CAM,
        "return summed if signed else summed.clamp(min=0)",
        "return summed",
        CAMS,
        "positive_ratio of gradcam",
    ),
    Fault(
        "mean for the largest of the colour channels",
        "methods/attribution/gradient.py",
        '"max_abs": lambda values: values.abs().amax(1),',
        '"max_abs": lambda values: values.abs().mean(1),',
        GRADIENTS,
        "energy_pointing_game of gradient on",
    ),
    Fault(
        "the explained class off by one",
        "harness/heads.py",
        "start[:, targets.image[pairs], targets.label[pairs]] = 1",
        "start[:, targets.image[pairs], targets.label[pairs] - 1] = 1",
        GRADIENTS,
        "of gradient on",
    ),
    Fault(
        "baseline of integrated gradients",
        "methods/attribution/gradient.py",
        '"mean": lambda forward: torch.zeros_like(forward.inputs[:1]),',
        '"mean": lambda forward: torch.ones_like(forward.inputs[:1]),',
        GRADIENTS,
        "of integrated_gradients",
    ),
    Fault(
        "direction of insertion",
        "metrics/pixel_ranks.py",
        'descending=order == "morf"',
        'descending=order != "morf"',
        CURVES,
        "insertion of gradcam",
    ),
    Fault(
        "half of the pixels at each step of a curve",
        "metrics/perturbation.py",
        "places = (number * self.step * things / whole",
        "places = (number * self.step * things / 2 / whole",
        CURVES,
        "perturbation of gradcam",
    ),
    Fault(
        "width of the blur",
        FRAMES,
        "kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)",
        "kernel = torch.exp(-((offsets / sigma) ** 2))",
        Part(CSV),
        "of gradient on scenes_vgg",
    ),
    Fault(
        "maps resized with their corners aligned",
        FRAMES,
        "position = (centre * (source / sizes[:, None].float()) - 0.5).clamp(0, source - 1)",
        "position = ((centre - 0.5) * ((source - 1) / (sizes[:, None].float() - 1))).clamp(0, source - 1)",
        POINTING,
        "energy_pointing_game of gradcam",
    ),
    Fault(
        "side of a percentile",
        "methods/ood/percentiles.py",
        "np.percentile(values.numpy(), rank)",
        "np.percentile(values.numpy(), 100 - rank)",
        UNKNOWN,
        "of (react|dice) ",
    ),
    Fault(
        "sign of the energy",
        "methods/ood/logits.py",
        "return -logits.logsumexp(1)",
        "return logits.logsumexp(1)",
        UNKNOWN,
        "of energy on scenes_resnet",
    ),
    Fault(
        "ODIN without its temperature",
        "methods/ood/odin.py",
        "return -(logits.double() / self.temperature).softmax(1).amax(1)",
        "return -logits.double().softmax(1).amax(1)",
        UNKNOWN,
        "of odin",
    ),
    Fault(
        "one degree of freedom less in the covariance",
        "harness/training.py",
        "return self.within / self.total\n",
        "return self.within / (self.total - 1)\n",
        UNKNOWN,
        "of mahalanobis",
    ),
    Fault(
        "a detector's score in the wrong direction",
        "methods/ood/knn.py",
        "return (queries - neighbours[kth]).norm(dim=1)",
        "return -(queries - neighbours[kth]).norm(dim=1)",
        UNKNOWN,
        "of knn",
    ),
    Fault(
        "nearest neighbour k - 1",
        "methods/ood/knn.py",
        "similarity.topk(self.k, 1).indices[:, -1]",
        "similarity.topk(self.k, 1).indices[:, -2]",
        UNKNOWN,
        "of knn",
    ),
)
