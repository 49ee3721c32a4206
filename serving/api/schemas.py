"""Schemas of the JSON of successful replies, as the API description shows it.

``DetectionResponse`` documents what ``detect.py`` writes by hand. A test checks it, not the server:
validating a hundred boxes costs more than serialising them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class ImageSize(BaseModel):
    width: int = Field(description="Pixels, of the upright image.")
    height: int


class Detection(BaseModel):
    box: tuple[float, float, float, float] = Field(
        description="x1, y1, x2, y2 in pixels of the upright original image."
    )
    score: float = Field(ge=0, le=1)
    label: str = Field(description="Name of the class.")
    class_id: int = Field(ge=0, description="Position of the class in /v1/models.")
    track_id: int | None = Field(
        default=None,
        description="Which object of the stream it is, where that was asked for and is known.",
    )


class DetectionResponse(BaseModel):
    """The boxes of one image, best first, and what it took to find them."""

    model: str = Field(description="The model that answered.")
    request_id: str
    image: ImageSize
    detections: list[Detection]
    version: str = Field(
        description="The version of the model that answered: its name in the catalogue and the "
        "first digits of its digest."
    )
    operating_point: str = Field(
        description="Input size and exit that answered, such as 300x300/1, by their name in "
        "/v1/models."
    )
    exit_depth: int = Field(ge=1, description="The exit that answered.")
    max_depth: int = Field(ge=1, description="The deepest of that model that was allowed.")
    degraded: bool = Field(
        description="Whether a better answer was allowed, of any model or merged: one with a "
        "higher AP."
    )
    expected_ap: float = Field(
        description="COCO AP of this exit on the evaluation data, or what its measure is."
    )
    budget_ms: float = Field(gt=0, description="The budget that was applied.")
    elapsed_ms: float = Field(ge=0, description="From the request's head to this reply.")
    slack_ms: float = Field(description="What was left of the budget.")
    predicted_ms: float = Field(ge=0, description="What the engine was predicted to take.")


class PartProblem(BaseModel):
    type: str
    title: str
    status: int = Field(description="The status that a request of its own would have had.")
    detail: str
    min_budget_ms: float | None = None
    reason: str | None = None
    retry_after_ms: float | None = None


class Part(BaseModel):
    """One part of a request: an image, a tile or a region. Unanswered, it has a ``problem``."""

    outcome: str = Field(description="`answered`, or which problem it has.")
    image: ImageSize | None = Field(default=None, description="Of an image of its own.")
    region: tuple[int, int, int, int] | None = Field(
        default=None, description="x1, y1, x2, y2 in pixels of the upright original image."
    )
    model: str | None = None
    operating_point: str | None = None
    exit_depth: int | None = None
    max_depth: int | None = None
    degraded: bool | None = None
    expected_ap: float | None = None
    predicted_ms: float | None = None
    num_detections: int | None = None
    detections: list[Detection] | None = Field(
        default=None,
        description="In pixels of its image or, of a region, of the image that was cut. Tiles have "
        "theirs together.",
    )
    problem: PartProblem | None = None


class PartsResponse(BaseModel):
    """What became of a request with several parts, of which one was answered at least."""

    request_id: str
    num_parts: int = Field(ge=1)
    num_answered: int = Field(ge=1)
    image: ImageSize | None = Field(default=None, description="The image that was cut.")
    detections: list[Detection] | None = Field(
        default=None, description="Boxes of all tiles as one answer, best first."
    )
    parts: list[Part] = Field(
        description="Images as they were sent; tiles row by row, then the whole image if it was "
        "asked for; regions as they were named."
    )
    budget_ms: float = Field(gt=0, description="The budget that was applied, to all together.")
    elapsed_ms: float = Field(ge=0, description="From the request's head to this reply.")
    slack_ms: float = Field(description="What was left of the budget.")


class Prediction(BaseModel):
    label: str
    confidence: float = Field(ge=0, le=1)
    x_min: int
    y_min: int
    x_max: int
    y_max: int


class VisionResponse(BaseModel):
    """The reply of DeepStack and CodeProject.AI, and the facts of ``DetectionResponse``."""

    success: Literal[True]
    message: str
    count: int
    predictions: list[Prediction] = Field(description="Best first.")
    code: Literal[200]
    command: Literal["detect"]
    duration: int
    processMs: int = Field(description="As `elapsed_ms`, in whole milliseconds.")  # noqa: N815
    inferenceMs: int = Field(description="As `predicted_ms`, in whole milliseconds.")  # noqa: N815
    model: str
    operating_point: str
    exit_depth: int
    max_depth: int
    degraded: bool
    expected_ap: float
    budget_ms: float
    elapsed_ms: float
    slack_ms: float
    predicted_ms: float


class VisionError(BaseModel):
    success: Literal[False]
    error: str = Field(description="What is wrong, in a sentence.")
    code: int = Field(description="The status.")


class Done(BaseModel):
    """The last event of a streaming reply, whose other events are each a ``DetectionResponse``."""

    request_id: str
    model: str = Field(description="The model that answered.")
    reason: Literal["max-depth", "best", "concluded", "deadline"] = Field(
        description="Why it went no deeper: it was not allowed to; no exit that was allowed is "
        "better; no further exit fitted into its budget, given the other requests; or an exit came "
        "too late and was left out."
    )
    num_answers: int = Field(ge=1, description="Events before this one.")
    version: str = Field(description="The version of the model that answered.")
    operating_point: str = Field(description="Input size and exit of the last answer.")
    exit_depth: int = Field(ge=1, description="The exit of the last answer, the deepest.")
    max_depth: int = Field(ge=1, description="The deepest of that model that was allowed.")
    degraded: bool = Field(
        description="Whether a better answer was allowed, of any model or merged: one with a "
        "higher AP."
    )
    expected_ap: float = Field(description="COCO AP of that exit on the evaluation data.")
    budget_ms: float = Field(gt=0, description="The budget that was applied.")
    elapsed_ms: float = Field(ge=0, description="From the request's head to this event.")
    slack_ms: float = Field(description="What was left of the budget.")


class ExitFacts(BaseModel):
    operating_point: str = Field(description="Name of the exit at this input size.")
    depth: int
    ap: float = Field(description="COCO AP (IoU .50:.95), or what `evaluation.measure` says.")
    ap50: float = Field(description="AP at IoU .50.")
    predicted_ms: float | None = Field(
        description="Engine time on an idle server, typically; null while it is starting."
    )
    min_budget_ms: float | None = Field(
        description="Budget for a JPEG of the model's input size that the server, as it is now, "
        "seldom misses at this exit while nobody else is there; null while it is starting."
    )
    promised_hz: float | None = Field(
        description="Frames a second of a stream that the server can promise at this exit, beside "
        "what it has promised; null while it is starting."
    )
    on_front: bool | None = Field(
        description="Whether no exit here, of any model, is as accurate and no slower; null while "
        "it is starting."
    )


class EvaluationFacts(BaseModel):
    dataset: str
    split: str
    num_images: int
    seed: int
    runtime: str
    date: str
    measure: str = Field(
        description="What `ap` is: AP; agreement, which is AP with the boxes of a larger model for "
        "annotations; or order, the place in an order that somebody stated."
    )
    reference: str = Field(
        description="Of agreement, the operating point whose boxes they are; of an order, the "
        "models in it; otherwise empty."
    )


class ModelFacts(BaseModel):
    name: str
    version: str
    description: str
    license: str
    flavour: str
    origin: str = Field(description="Where its weights come from; empty: they were trained here.")
    classes: list[str]
    size: str = Field(description="Name of the input size: width x height.")
    input_width: int
    input_height: int
    max_detections: int
    score_threshold: float = Field(description="Lowest threshold that a request may ask for.")
    exits: list[ExitFacts]
    reserve_ms: float = Field(
        description="Part of a budget that goes to decoding a JPEG of the model's input size, and "
        "to the reply; the rest is the engine's."
    )
    precision: str | None = Field(
        description="What convolutions are computed in, and accuracies and latencies were measured "
        "in; null: what the runtime chooses by itself."
    )
    precision_reason: str | None = Field(
        default=None,
        description="Why it is that precision, where int8 segments are there and none was asked "
        "for; null otherwise.",
    )
    evaluation: EvaluationFacts | None = Field(description="What the APs were measured on.")
    profile_machines: dict[str, str] = Field(
        description="By runtime, the machine that latencies were profiled on."
    )


class FrontPoint(BaseModel):
    operating_point: str
    model: str
    depth: int
    ap: float = Field(description="COCO AP (IoU .50:.95).")
    predicted_ms: float = Field(description="Engine time on an idle server, typically.")
    promised_hz: float = Field(
        description="Frames a second of a stream that the server can promise at this point, beside "
        "what it has promised."
    )


class MergedFacts(BaseModel):
    first: str = Field(description="Operating point that answered first, of a smaller input size.")
    then: str = Field(description="Operating point that answered later.")
    ap: float = Field(description="COCO AP (IoU .50:.95) of the one answer that they become.")


class Models(BaseModel):
    """Models that are served, each at one or several input sizes.

    Several models for the same classes are served as one.
    """

    models: list[ModelFacts] = Field(description="Each input size of each model by itself.")
    merged: list[MergedFacts] = Field(
        description="Pairs of operating points whose answers are merged, as far as measured."
    )
    front: list[FrontPoint] | None = Field(
        description="The exits that are worth their time, quickest first, each more accurate than "
        "the one before; null while they are starting."
    )


class ProblemDetails(BaseModel):
    """One problem, as RFC 9457 has it; further members depend on the type."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    budget_ms: float | None = None
    min_budget_ms: float | None = None
    retry_after_ms: float | None = None
    reason: str | None = None


class ProtocolError(BaseModel):
    """One problem in the words of the Open Inference Protocol."""

    error: str


class ReplyTensor(BaseModel):
    """One output of a message: its numbers, or the bytes that follow the JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float] | None = Field(default=None, description="Numbers, row by row.")
    parameters: dict[str, int] | None = Field(
        default=None, description="`binary_data_size`, of outputs that were asked for as bytes."
    )


class InferReply(BaseModel):
    """The boxes of one image as tensors."""

    model_name: str
    model_version: str
    id: str | None = Field(default=None, description="The request's own, if it had one.")
    parameters: dict[str, str | float | bool] = Field(
        description="What `/v1/detect` says besides the boxes."
    )
    outputs: list[ReplyTensor]


class Status(BaseModel):
    status: str
