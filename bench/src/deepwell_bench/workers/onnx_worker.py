"""onnxruntime as a benchmark peer: runs under an interpreter that has it, speaks JSON lines; stand-alone on purpose."""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import onnxruntime


class Peer:
    """One session."""

    def __init__(self) -> None:
        self.session: Any = None

    def info(self) -> dict[str, Any]:
        """Returns its version and what it was built with."""
        return {"version": onnxruntime.__version__, "build": onnxruntime.get_build_info()}

    def quantize(self, source: str, folded: str, target: str) -> dict[str, Any]:
        """Makes dynamic int8 products (`MatMulInteger`) of a file whose weights alone are int8."""
        from onnxruntime.quantization import QuantType, quantize_dynamic

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = folded  # constants folded: the weights are float32 again
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        quantize_dynamic(folded, target, weight_type=QuantType.QInt8)
        return {}

    def load(self, path: str, threads: int) -> dict[str, Any]:
        """Opens a model with every graph optimisation."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Its threads must not spin while another side is timed.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return {}

    def embed(self, tokens: list[list[int]]) -> dict[str, Any]:
        """Returns mean-pooled unit vectors of sequences of one length; the model, pooling and scaling are timed."""
        ids = np.array(tokens, np.int64)
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        wanted = {one.name for one in self.session.get_inputs()}
        feed = {name: value for name, value in given.items() if name in wanted}
        start = time.perf_counter()
        mean = self.session.run(None, feed)[0].mean(axis=1)
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
        return {"seconds": time.perf_counter() - start, "vectors": mean.tolist()}


def main() -> None:
    """Answers until stdin ends."""
    peer = Peer()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(peer, request.pop("do"))(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
