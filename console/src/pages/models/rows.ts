import type { Job } from "../../api/types";
import type { Alias, ListedModel } from "./types";

export type Role = "model" | "adapter" | "alias";

/** A served model with its adapters and further names. */
export interface Served {
  model: ListedModel;
  role: Role;
  /** Further names of it. */
  aliases: string[];
}

/**
 * The list of models in the order in which it is read: each model, below it its adapters. Aliases stand beside what they
 * mean instead of in rows of their own; those whose meaning is not listed keep a row.
 */
export function arrange(models: readonly ListedModel[], aliases: readonly Alias[]): Served[] {
  const names = new Set(aliases.map((one) => one.id));
  const roleOf = (model: ListedModel): Role => (names.has(model.id) ? "alias" : model.parent ? "adapter" : "model");
  const own = models.filter((one) => roleOf(one) !== "alias");
  const rows: Served[] = [];
  const push = (model: ListedModel) => {
    const further = aliases.filter((one) => one.model === model.id).map((one) => one.id);
    rows.push({ model, role: roleOf(model), aliases: further.sort() });
  };
  const bases = own.filter((one) => !one.parent || !own.some((other) => other.id === one.parent));
  for (const base of bases) {
    push(base);
    for (const adapter of own) if (adapter.parent === base.id && adapter !== base) push(adapter);
  }
  return rows;
}

export type Work = "writes" | "embeds" | "speech" | "recognition" | "image";

/** What a model does. One that only embeds has no sampling parameters. */
export function workOf(model: ListedModel): Work {
  return model.kind ?? ((model.default_sampling ?? null) !== null ? "writes" : "embeds");
}

/** A command that asks a model something. Names of models are the server's: what a shell would read is escaped. */
export function requestOf(model: ListedModel, origin: string, text: string): string {
  const quoted = (value: string) => `'${value.replaceAll("'", "'\\''")}'`;
  const posted = (path: string, asked: object) =>
    `curl ${origin}${path} -H 'Content-Type: application/json' -d ${quoted(JSON.stringify({ model: model.id, ...asked }))}`;
  switch (workOf(model)) {
    case "writes":
      return posted("/v1/chat/completions", { messages: [{ role: "user", content: text }] });
    case "embeds":
      return posted("/v1/embeddings", { input: text });
    case "speech":
      return `${posted("/v1/audio/speech", { voice: "alloy", input: text })} -o speech.mp3`;
    case "recognition":
      return `curl ${origin}/v1/audio/transcriptions -F file=@speech.mp3 -F ${quoted(`model=${model.id}`)}`;
    case "image":
      return posted("/v1/images/generations", { prompt: text });
  }
}

/** The names that an adapter or an alias may be given for. */
export function targets(models: readonly ListedModel[], aliases: readonly Alias[]): string[] {
  const names = new Set(aliases.map((one) => one.id));
  return models.filter((one) => !names.has(one.id)).map((one) => one.id);
}

/** The newest pull of each model. A row names its model in its result or its progress; `own` knows those started here. */
export function newest(jobs: readonly Job[], own: Readonly<Record<string, string>>): Map<string, Job> {
  const found = new Map<string, Job>();
  for (const job of jobs) {
    const model = own[job.id] ?? job.result?.model ?? job.progress?.model;
    if (typeof model !== "string") continue;
    const known = found.get(model);
    if (known === undefined || known.created_at < job.created_at) found.set(model, job);
  }
  return found;
}
