import assert from "node:assert/strict";
import { test } from "node:test";
import { Heights } from "../src/pages/chat/model/heights";

const keys = Array.from({ length: 10_000 }, (_, place) => `k${place}`);

test("places are found by heights that are measured or assumed", () => {
  const heights = new Heights(100);
  heights.setKeys(keys);
  assert.equal(heights.total, 1_000_000);
  assert.equal(heights.measure("k0", 350), 250);
  assert.equal(heights.measure("k0", 350), 0);
  assert.deepEqual([heights.top(1), heights.top(2), heights.total], [350, 450, 1_000_250]);
  assert.deepEqual(heights.range(0, 10), [0, 1]);
  assert.deepEqual(heights.range(349, 351), [0, 2]);
  assert.deepEqual(heights.range(350, 450), [1, 3]);
  assert.deepEqual(heights.range(999_000, 5_000_000), [9987, 10_000]);
});

test("a range is never empty nor beyond the list, whatever is asked for", () => {
  const heights = new Heights(100);
  heights.setKeys(keys.slice(0, 3));
  for (const from of [-500, 0, 150, 299, 300, 10_000]) {
    const [begin, end] = heights.range(from, from + 50);
    assert.ok(0 <= begin && begin <= end && end <= 3, `${from}: ${begin} to ${end}`);
  }
  heights.setKeys([]);
  assert.deepEqual([heights.range(0, 100), heights.total], [[0, 0], 0]);
});

test("heights stay known when the list changes, also in its middle", () => {
  const heights = new Heights(100);
  heights.setKeys(["a", "b", "c"]);
  heights.measure("b", 10);
  heights.setKeys(["a", "x", "b"]);
  assert.deepEqual([heights.top(2), heights.total], [200, 210]);
  heights.forget();
  assert.equal(heights.total, 300);
});
