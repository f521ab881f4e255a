"""lm-eval over an engine in another process: it reads the tasks, makes the prompts, cuts the tokens and computes the metrics.

It runs under an interpreter that has lm-eval and no Deepwell. The first line of stdin names the tasks. Lines on stdout ask for
what the engine computes, each answered by a line on stdin; the last one has the results.
"""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ |= {
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "LMEVAL_LOG_LEVEL": "ERROR",
}


class Engine:
    """The engine behind stdin and stdout."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # what lm-eval prints goes to stderr

    def tell(self, value: Any) -> None:
        """Writes a line."""
        self._answers.write(json.dumps(value) + "\n")

    def ask(self, do: str, **values: Any) -> Any:
        """Asks for something and returns the answer."""
        self.tell({"do": do, **values})
        return json.loads(sys.stdin.readline())


def main() -> None:
    """Runs the tasks of the first line."""
    engine = Engine()
    from lm_eval import evaluator
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    class Served(TemplateLM):
        """A model of lm-eval whose tokens and likelihoods come from the engine."""

        def __init__(self, first: int, context: int) -> None:
            super().__init__()
            self._first, self._context = first, context

        @property
        def eot_token_id(self) -> int:
            return self._first

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            return engine.ask("encode", text=string, framed=add_special_tokens is not False)

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            pairs = [(context, continuation) for _, context, continuation in requests]
            return [(value, greedy) for value, greedy in engine.ask("score", pairs=pairs)]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            found = []
            for request in requests:
                windows = map(
                    make_disjoint_window,
                    get_rolling_token_windows(
                        token_list=engine.ask("encode", text=request.args[0], framed=False),
                        prefix_token=self._first,
                        max_seq_len=self._context - 1,
                        context_len=1,
                    ),
                )
                found.append(sum(value for value, _ in engine.ask("score", pairs=list(windows))))
            return found

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            return engine.ask("generate", prompts=[request.args for request in requests])

    asked = json.loads(sys.stdin.readline())
    model = Served(asked["first"], asked["context"])
    tasks = {config["task"]: ConfigurableTask(config=config) for config in asked["tasks"]}
    found: Any = evaluator.evaluate(
        lm=model, task_dict=tasks, limit=asked["limit"], bootstrap_iters=0, log_samples=False
    )
    results = {
        task: {name.partition(",")[0]: value for name, value in values.items() if "stderr" not in name}
        for task, values in found["results"].items()
    }
    engine.tell({"done": results})


if __name__ == "__main__":
    main()
