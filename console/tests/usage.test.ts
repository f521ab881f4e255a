import assert from "node:assert/strict";
import { test } from "node:test";
import { grouped, queryOf, total } from "../src/pages/usage/buckets";
import { heatOf, hottest, levelOf, moved } from "../src/pages/usage/heat";
import type { UsageBucket } from "../src/pages/usage/types";

const NOW = 1_790_000_123;

function bucket(start: number, ...rows: [model: string, requests: number, input: number, output: number][]): UsageBucket {
  return {
    start_time: start,
    end_time: start + 3600,
    results: rows.map(([model, requests, input, output]) => ({
      input_tokens: input,
      output_tokens: output,
      input_cached_tokens: Math.floor(input / 2),
      num_model_requests: requests,
      model,
      api_key_id: null,
    })),
  };
}

test("the newest bucket asked for is the one that goes on, and one page holds all", () => {
  for (const [range, width, most] of [["day", 3600, 168], ["week", 3600, 168], ["month", 86_400, 31]] as const) {
    const { start_time, limit } = queryOf(range, NOW);
    assert.equal(start_time % width, 0);
    assert.ok(limit <= most);
    assert.ok(start_time + (limit - 1) * width <= NOW && NOW < start_time + limit * width, range);
  }
});

test("groups keep their buckets, and the largest comes first", () => {
  const buckets = [bucket(0, ["a", 1, 10, 1]), bucket(3600), bucket(7200, ["b", 2, 90, 9], ["a", 1, 4, 1])];
  const [first, second] = grouped(buckets, "model");
  assert.equal(first?.name, "b");
  assert.deepEqual(second?.buckets.map((one) => one.input), [10, 0, 4]);
  assert.deepEqual(total(grouped(buckets, "")), { requests: 4, input: 104, cached: 52, output: 11 });
  assert.deepEqual(grouped([bucket(0), bucket(3600)], "model"), []);
});

test("more groups than colours become one, and nothing is lost", () => {
  const names = ["a", "b", "c", "d", "e", "f", "g", "h"];
  const buckets = [bucket(0, ...names.map((name, place): [string, number, number, number] => [name, 1, 100 - place, 0]))];
  const found = grouped(buckets, "model");
  assert.equal(found.length, 6);
  assert.deepEqual(found.map((one) => one.name), ["a", "b", "c", "d", "e", null]);
  assert.equal(found[5]?.buckets[0]?.input, 95 + 94 + 93);
  assert.equal(total(found).requests, 8);
});

test("shares are over the mean of a mixture", () => {
  const heat = heatOf([
    [1, 1, 4, 2],
    [0, 0, 0, 0],
    [0, 30, 10, 0],
  ]);
  assert.deepEqual(heat.shares[0], [0.5, 0.5, 2, 1]);
  assert.deepEqual(heat.shares[1], [0, 0, 0, 0]);
  assert.deepEqual(heat.idle, [0, 4, 2]);
  assert.equal(heat.experts, 12);
  assert.equal(heat.busiest[1], null);
  assert.deepEqual(hottest(heat), { row: 2, column: 1 });
  assert.equal(hottest(heatOf([])), null);
});

test("a load that is small is not shown as none", () => {
  assert.deepEqual([0, 0.001, 0.3, 0.6, 1, 1.5, 2.5, 9].map(levelOf), [0, 1, 1, 2, 3, 4, 5, 6]);
});

test("arrow keys stay within rows of any length", () => {
  const heat = heatOf([[1, 1, 1], [1]]);
  assert.deepEqual(moved(heat, { row: 0, column: 2 }, "ArrowDown"), { row: 1, column: 0 });
  assert.deepEqual(moved(heat, { row: 1, column: 0 }, "ArrowDown"), { row: 1, column: 0 });
  assert.deepEqual(moved(heat, { row: 0, column: -1 }, "ArrowRight"), { row: 0, column: 0 });
  assert.equal(moved(heat, { row: 0, column: 0 }, "Tab"), null);
});
