"""A classifier behind an engine's features, as one graph: images to scores, probabilities and label."""

from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from aurevoir.engine.engine import Engine


def classified(engine, labels, seed=0, multilabel=False):
    """Return an engine that scores the signs of another's features by random weights."""
    model = onnx.load_from_string(engine.graph)
    random = np.random.default_rng(seed)
    weights = random.normal(scale=engine.features**-0.5, size=(engine.features, len(labels))).astype("float32")
    constants = {"readout_weights": weights, "readout_zero": np.float32(0)}
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    choice = (
        [
            helper.make_node("Greater", ["scores", "readout_zero"], ["readout_above"]),
            helper.make_node("Cast", ["readout_above"], ["label"], to=7),
            helper.make_node("Sigmoid", ["scores"], ["probabilities"]),
        ]
        if multilabel
        else [
            helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        ]
    )
    model.graph.node.extend(
        [
            helper.make_node("Greater", ["features", "readout_zero"], ["readout_signs"]),
            helper.make_node("Cast", ["readout_signs"], ["readout_ones"], to=1),
            helper.make_node("MatMul", ["readout_ones", "readout_weights"], ["scores"]),
            *choice,
        ]
    )
    del model.graph.output[:]
    shape = ["batch", len(labels)]
    model.graph.output.extend(
        [
            helper.make_tensor_value_info("scores", 1, shape),
            helper.make_tensor_value_info("probabilities", 1, shape),
            helper.make_tensor_value_info("label", 7, shape if multilabel else shape[:1]),
        ]
    )
    onnx.checker.check_model(model, full_check=True)
    manifest = replace(engine.manifest, labels=tuple(labels), multilabel=multilabel)
    return Engine(manifest, model.SerializeToString(), engine.table, device=engine.device)
