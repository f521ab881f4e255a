import assert from "node:assert/strict";
import { test } from "node:test";
import { actionOf, classesOf, keyOf, type Pressed } from "../src/pages/labelling/keys";

const press = (key: string, more: Partial<Pressed> = {}): Pressed => ({
  key,
  ctrlKey: false,
  metaKey: false,
  altKey: false,
  repeat: false,
  ...more,
});

test("digits label by the place of the class", () => {
  assert.deepEqual(actionOf(press("1"), 3), { kind: "label", place: 0 });
  assert.deepEqual(actionOf(press("0"), 10), { kind: "label", place: 9 });
  assert.equal(actionOf(press("4"), 3), null);
  assert.equal(actionOf(press("0"), 9), null);
  assert.deepEqual([0, 8, 9, 10].map(keyOf), ["1", "9", "0", null]);
});

test("arrows choose, skip and undo; u undoes", () => {
  assert.deepEqual(actionOf(press("ArrowDown"), 3), { kind: "choose", step: 1 });
  assert.deepEqual(actionOf(press("ArrowUp", { repeat: true }), 3), { kind: "choose", step: -1 });
  assert.deepEqual(["ArrowRight", "ArrowLeft", "u", "U", "Enter", "x"].map((key) => actionOf(press(key), 2)?.kind), [
    "skip",
    "undo",
    "undo",
    "undo",
    "take",
    undefined,
  ]);
});

test("a key that is held down, or pressed with another one, does nothing", () => {
  for (const more of [{ ctrlKey: true }, { metaKey: true }, { altKey: true }, { repeat: true }]) {
    assert.equal(actionOf(press("1", more), 3), null);
    assert.equal(actionOf(press("u", more), 3), null);
  }
});

test("classes stand one a line or between commas, each once", () => {
  assert.deepEqual(classesOf("sport, money\n\n 科技，sport\n"), ["sport", "money", "科技"]);
  assert.deepEqual(classesOf(" \n"), []);
});
