import assert from "node:assert/strict";
import { test } from "node:test";
import { example, preview } from "../src/pages/batches/input";

test("an input tells its path and model before it is sent", () => {
  assert.deepEqual(preview(example("toy"), true), { endpoint: "/v1/chat/completions", model: "toy", broken: null });
  const other = '\n{"custom_id": "1", "url": "/v1/no/such", "body": {}}\n';
  assert.deepEqual(preview(other, true), { endpoint: null, model: null, broken: null });
});

test("a line that is no object is named, and one that is cut is not read", () => {
  const text = '{"url": "/v1/embeddings", "body": null}\n\n[1]\n';
  assert.deepEqual(preview(text, true), { endpoint: "/v1/embeddings", model: null, broken: 3 });
  assert.equal(preview('{"url": "/v1/embeddings"}\n{"custom', false).broken, null);
  assert.equal(preview('{"url": "/v1/embeddings"}\n{"custom', true).broken, 2);
});
