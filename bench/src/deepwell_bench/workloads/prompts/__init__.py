"""Held-out tasks of the industry prompts, one for each pack, and the digest of all their items."""

from __future__ import annotations

from typing import Final

from deepwell_bench.workloads.prompts.content import CONTENT
from deepwell_bench.workloads.prompts.finance import FINANCE
from deepwell_bench.workloads.prompts.law import LAW
from deepwell_bench.workloads.prompts.medicine import MEDICINE
from deepwell_bench.workloads.prompts.support import SUPPORT
from deepwell_bench.workloads.prompts.task import Half, PromptItem, PromptTask, digest

__all__ = ["HELD_OUT_SHA256", "TASKS", "Half", "PromptItem", "PromptTask", "digest"]

HELD_OUT_SHA256: Final = "ab12aeeed1120a021fa1187c830326810aa990011e23339895d63dc9498fd7ee"
"""Digest of the held-out items of all tasks, taken before a prompt was written or a model was run."""

TASKS: Final = (*FINANCE, *LAW, *MEDICINE, *SUPPORT, *CONTENT)
"""The tasks, one for each pack that was tried."""
