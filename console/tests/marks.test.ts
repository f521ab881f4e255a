import assert from "node:assert/strict";
import { test } from "node:test";
import { chunkOf } from "../src/pages/knowledge/found";
import { pieces, toUnits } from "../src/pages/knowledge/marks";

test("offsets in characters become offsets in units, however many characters have two", () => {
  const text = "a😀b👍🏽 中文";
  const points = [...text];
  const spans = points.flatMap((_, start) => points.slice(start).map((_, more) => ({ start, end: start + more + 1 })));
  for (const [at, { start, end }] of toUnits(text, spans).entries()) {
    const span = spans[at];
    assert.equal(text.slice(start, end), points.slice(span?.start, span?.end).join(""));
  }
  assert.deepEqual(toUnits("ab", [{ start: 1, end: 9 }]), [{ start: 1, end: 2 }]);
  assert.deepEqual(toUnits("\ud83d", [{ start: 0, end: 1 }]), [{ start: 0, end: 1 }]);
});

test("pieces are the text again, and each knows the spans over it", () => {
  const text = "0123456789";
  const spans = [
    { start: 1, end: 5 },
    { start: 3, end: 8 },
  ];
  const found = pieces(text, spans, 0, 10);
  assert.equal(found.map((one) => one.text).join(""), text);
  assert.deepEqual(
    found.map((one) => [one.text, one.covers]),
    [
      ["0", []],
      ["12", [0]],
      ["34", [0, 1]],
      ["567", [1]],
      ["89", []],
    ],
  );
  assert.deepEqual(pieces(text, spans, 4, 6).map((one) => one.text), ["4", "5"]);
});

test("a passage is found among chunks by its text", () => {
  const chunks = [{ text: "one" }, { text: "one and two" }, { text: "two" }];
  assert.equal(chunkOf("two", chunks), chunks[2]);
  assert.equal(chunkOf("and", chunks), chunks[1]);
  assert.equal(chunkOf("three", chunks), undefined);
});
