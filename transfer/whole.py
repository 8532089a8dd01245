"""A whole classifier as one engine: from images to scores, probabilities and label, without Python in between."""

from dataclasses import replace

import onnx
from onnx import shape_inference

from ..calibration.graph.edit import prune
from ..calibration.graph.float16 import has_float16_body, to_float16
from ..engine.engine import Engine
from ..engine.manifest import LONGEST_LABEL
from ..engine.runtimes import builds_plans, choose_builder, choose_runtime, takes_body, wants_float16_body
from ..engine.runtimes import runtime as runtime_module
from ..engine.runtimes.base import RUNTIMES, Precision, RuntimeName
from ..engine.smoke import first_inference
from ..engine.spec import Auto, PlanSpec
from ..errors import UsageError
from ..kernels.readout import Readout
from ..schema import first_repeated
from .readout_graph import append_readout

_FLOATS = ("fp32", "bf16")
"""Precisions whose engines hold the float graph itself, of which one of another float precision can be made."""


def classifier_engine(
    engine: Engine,
    readout: Readout,
    labels: tuple[str, ...],
    temperature: float,
    multilabel: bool = False,
    *,
    precision: Precision | None = None,
    runtime: RuntimeName | Auto = "auto",
    device: str | None = None,
    plan: PlanSpec | None = None,
    smoke: bool = True,
    progress: bool = False,
) -> Engine:
    """Join an engine of features and a readout to one engine; see `OpticalClassifier.to_engine`."""
    plan, made = plan or PlanSpec(), engine.manifest
    _check_labels(labels)
    chosen = precision or made.precision
    graph = onnx.load_from_string(engine.graph)
    taken = _runtime(engine, graph, chosen, runtime, device, plan)
    graph = prune(graph, ["features", "pooled"] if readout.uses_pooled else ["features"])
    if wants_float16_body(taken, chosen) and not has_float16_body(graph):
        graph = to_float16(graph, made.in_float32)
    append_readout(graph, readout, engine.features, temperature, multilabel, packed=not builds_plans(taken))
    manifest = replace(
        made,
        precision=chosen,
        runtime=taken,
        runtime_version=runtime_module(taken).version(),
        target=plan.target,
        labels=labels,
        multilabel=multilabel,
        pooled=0,
        pooled_layers=(),
        sign_agreement=made.sign_agreement if chosen == made.precision else None,
        relative_error=made.relative_error if chosen == made.precision else None,
    )
    whole = Engine(manifest, shape_inference.infer_shapes(graph).SerializeToString(), engine.table, device)
    whole.build_plan(plan, progress)
    if smoke and plan.target is None:
        first_inference(whole)
    return whole


def _check_labels(labels: tuple[str, ...]) -> None:
    """Raise UsageError unless an engine file can hold the classes, as text."""
    for label in labels:
        if len(label) > LONGEST_LABEL:
            raise UsageError(
                f"class {label[:40]!r}... has {len(label):,d} letters, and an engine holds {LONGEST_LABEL:,d}"
            )
    if (repeated := first_repeated(labels)) is not None:
        raise UsageError(f"two classes are {repeated!r} as text; name them differently, and fit again")


def _runtime(
    engine: Engine, graph: onnx.ModelProto, precision: Precision, runtime: str, device: str | None, plan: PlanSpec
) -> RuntimeName:
    """Return the runtime, after checking that it can run the graph in that precision."""
    made, half = engine.manifest, has_float16_body(graph)
    if precision != made.precision and (made.precision not in _FLOATS or precision == "int8"):
        raise UsageError(
            f"precision {precision!r}: the model's engine is {made.precision}, of which no {precision} can be made; "
            f"omit it, or fit with precision {precision!r}"
        )
    if plan.target is not None:
        chosen = choose_builder(runtime, precision, plan.target)
    else:
        own = made.runtime if runtime == "auto" and precision == made.precision and device is None else runtime
        family = [name for name in RUNTIMES if half == wants_float16_body(name, precision) or not half]
        chosen = choose_runtime(own, precision, family, device)
    if half and not takes_body(chosen, precision, half):
        raise UsageError(f"runtime {chosen!r} does not run float16 graphs, which the model's engine has; fit for it")
    if not builds_plans(chosen) and plan != PlanSpec():
        raise UsageError(f"workspace, timing_cache and batches have no effect with runtime {chosen!r}; leave them out")
    if builds_plans(chosen) and made.activation_dtype == "uint8":
        raise UsageError(
            f"runtime {chosen!r} takes signed activations, and the model's engine has unsigned ones; fit with "
            "activation_dtype 'int8' (--activation-dtype int8)"
        )
    return chosen
