/** Paths that a batch can call. */
export const ENDPOINTS = ["/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings"] as const;

/** What the beginning of an input tells before it is sent. */
export interface Preview {
  /** Path of the first line; null where the line has none that a batch can call. */
  endpoint: string | null;
  model: string | null;
  /** The first line that is no JSON object, from 1; null: none was seen. */
  broken: number | null;
}

/** Reads the first lines of an input. `whole` says that `text` is all of it: otherwise the last line may be cut. */
export function preview(text: string, whole: boolean): Preview {
  const lines = text.split("\n");
  if (!whole) lines.pop();
  const found: Preview = { endpoint: null, model: null, broken: null };
  for (const [at, line] of lines.entries()) {
    if (line.trim() === "") continue;
    const entry = objectOf(line);
    if (entry === null) {
      found.broken = at + 1;
      break;
    }
    if (found.endpoint === null && typeof entry.url === "string") found.endpoint = entry.url;
    const body = entry.body as { model?: unknown } | null | undefined;
    if (found.model === null && typeof body?.model === "string") found.model = body.model;
  }
  if (!ENDPOINTS.some((one) => one === found.endpoint)) found.endpoint = null;
  return found;
}

function objectOf(line: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

/** An input of three lines, to begin with. */
export function example(model: string): string {
  return ["red", "green", "blue"]
    .map((colour, at) => {
      const messages = [{ role: "user", content: `Name a fruit that is ${colour}.` }];
      const body = { model, messages, max_tokens: 32 };
      return `${JSON.stringify({ custom_id: `colour-${at + 1}`, method: "POST", url: ENDPOINTS[0], body })}\n`;
    })
    .join("");
}
