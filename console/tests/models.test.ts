import assert from "node:assert/strict";
import { test } from "node:test";
import type { Job } from "../src/api/types";
import { arrange, newest, requestOf, targets, workOf } from "../src/pages/models/rows";
import type { Alias, ListedModel } from "../src/pages/models/types";

function model(id: string, parent?: string): ListedModel {
  return { id, object: "model", created: 0, owned_by: "deepwell", max_model_len: 512, ...(parent !== undefined && { parent }) };
}

function alias(id: string, means: string): Alias {
  return { object: "alias", id, model: means, changed_at: 0, changed_by: "cli" };
}

function pull(id: string, created: number, more: Partial<Job>): Job {
  return {
    object: "job",
    id,
    kind: "model.pull",
    status: "running",
    created_at: created,
    started_at: null,
    finished_at: null,
    progress: null,
    result: null,
    error: null,
    attempts: 1,
    cancel_requested: false,
    ...more,
  };
}

test("adapters stand below their models, and aliases beside what they mean", () => {
  const models = [model("sql", "b"), model("a"), model("b"), model("prod", "b"), model("lost", "gone"), model("beta", "sql")];
  const aliases = [alias("prod", "b"), alias("beta", "sql")];
  const rows = arrange(models, aliases).map((row) => [row.model.id, row.role, ...row.aliases]);
  assert.deepEqual(rows, [
    ["a", "model"],
    ["b", "model", "prod"],
    ["sql", "adapter", "beta"],
    ["lost", "adapter"],
  ]);
  assert.deepEqual(targets(models, aliases), ["sql", "a", "b", "lost"]);
});

test("of each model the newest pull counts, whether it says its model or was started here", () => {
  const found = newest(
    [
      pull("3", 30, { progress: { model: "a" } }),
      pull("2", 20, { result: { model: "a" } }),
      pull("1", 10, {}),
      pull("0", 5, { progress: { model: 7 } }),
    ],
    { "1": "b" },
  );
  assert.deepEqual([...found].map(([name, job]) => [name, job.id]), [["a", "3"], ["b", "1"]]);
});

test("models of sound and images are named by what they do, and asked at their own routes", () => {
  const writer = { ...model("a"), default_sampling: { temperature: 1 } } as ListedModel;
  const media = (["speech", "recognition", "image"] as const).map((kind) => ({ ...model("it's"), kind }));
  const all = [writer, model("e"), ...media];
  assert.deepEqual(all.map(workOf), ["writes", "embeds", "speech", "recognition", "image"]);
  const asked = all.map((one) => requestOf(one, "http://h", "hi"));
  const routes = ["chat/completions", "embeddings", "audio/speech", "audio/transcriptions", "images/generations"];
  asked.forEach((command, place) => assert.ok(command.startsWith(`curl http://h/v1/${routes[place]} `), command));
  assert.ok(asked[4]!.includes(`it'\\''s`) && asked[3]!.includes(`'model=it'\\''s'`));
});
