import assert from "node:assert/strict";
import { test } from "node:test";
import { actionOf, type Pressed } from "../src/pages/ratings/keys";
import { raterOf } from "../src/pages/ratings/rater";

const press = (key: string, more: Partial<Pressed> = {}): Pressed => ({
  key,
  ctrlKey: false,
  metaKey: false,
  altKey: false,
  repeat: false,
  ...more,
});

test("1, 2 and 0 vote", () => {
  assert.deepEqual(actionOf(press("1")), { kind: "vote", choice: "left" });
  assert.deepEqual(actionOf(press("2")), { kind: "vote", choice: "right" });
  assert.deepEqual(actionOf(press("0")), { kind: "vote", choice: "tie" });
  assert.deepEqual(actionOf(press("u")), { kind: "undo" });
  assert.equal(actionOf(press("3")), null);
});

test("a key that is held down, or pressed with another, does nothing", () => {
  assert.equal(actionOf(press("1", { repeat: true })), null);
  assert.equal(actionOf(press("1", { ctrlKey: true })), null);
});

test("names of raters are what the server takes", () => {
  assert.equal(raterOf("  Ada\n"), "Ada");
  assert.equal(raterOf("\u0000"), "");
  assert.equal(raterOf("林".repeat(90)).length, 64);
});
