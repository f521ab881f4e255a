"""OpenTelemetry's names, in one place, because the GenAI conventions are still in development and change.

After https://github.com/open-telemetry/semantic-conventions-genai (metrics and spans of model servers) and the stable HTTP
conventions. Prometheus names follow OpenTelemetry's rule: dots become underscores, the unit becomes a suffix, units in braces
disappear.
"""

from __future__ import annotations

__all__ = [
    "INVOKE_AGENT_DURATION",
    "PROVIDER",
    "REQUEST_DURATION",
    "TIME_PER_OUTPUT_TOKEN",
    "TIME_TO_FIRST_TOKEN",
    "TOKEN_USAGE",
    "TOOL_DURATION",
    "Attribute",
    "prometheus_label",
    "prometheus_name",
]

PROVIDER = "deepwell"

# Name, unit, buckets. Some begin lower than recommended, because a small model on a CPU is faster than the first bound.
REQUEST_DURATION = (
    "gen_ai.server.request.duration",
    "s",
    (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
)
TIME_TO_FIRST_TOKEN = (
    "gen_ai.server.time_to_first_token",
    "s",
    (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
TIME_PER_OUTPUT_TOKEN = (
    "gen_ai.server.time_per_output_token",
    "s",
    (0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
)
TOKEN_USAGE = (
    "gen_ai.client.token.usage",
    "{token}",
    (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576),
)
TOOL_DURATION = (
    "gen_ai.execute_tool.duration",
    "s",
    (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
INVOKE_AGENT_DURATION = (
    "gen_ai.invoke_agent.duration",
    "s",
    (0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0),
)
_SUFFIXES = {"s": "_seconds"}


class Attribute:
    """Attribute keys of spans. Those that label metrics go through `prometheus_label`."""

    OPERATION = "gen_ai.operation.name"
    PROVIDER = "gen_ai.provider.name"
    MODEL = "gen_ai.request.model"
    TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105
    INPUT_TOKENS = "gen_ai.usage.input_tokens"
    CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
    OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
    FINISH_REASONS = "gen_ai.response.finish_reasons"
    TOOL = "gen_ai.tool.name"
    ERROR_TYPE = "error.type"
    METHOD = "http.request.method"
    ROUTE = "http.route"
    STATUS = "http.response.status_code"
    BODY_BYTES = "http.response.body.size"
    PATH = "url.path"


def prometheus_name(metric: str, unit: str) -> str:
    """Returns a metric's name in Prometheus."""
    return metric.replace(".", "_") + _SUFFIXES.get(unit, "")


def prometheus_label(attribute: str) -> str:
    """Returns an attribute's label in Prometheus."""
    return attribute.replace(".", "_")
