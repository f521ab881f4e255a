import assert from "node:assert/strict";
import { test } from "node:test";
import { Tree } from "../src/pages/chat/model/tree";
import type { Message } from "../src/pages/chat/model/types";

let clock = 0;
function message(id: string, parent: string | null, role: Message["role"] = "user"): Message {
  clock += 1;
  return { id, conversation: "c", parent, role, content: id, created: clock };
}

/** a - b - c, with d and e beside c, and f after e. */
function grown(): Tree {
  const tree = new Tree();
  for (const [id, parent] of [["a", null], ["b", "a"], ["c", "b"], ["d", "b"], ["e", "b"], ["f", "e"]] as const) {
    tree.add(message(id, parent));
  }
  return tree;
}

test("what was added last is shown, from the beginning on", () => {
  assert.deepEqual(grown().path(), ["a", "b", "e", "f"]);
});

test("a branch knows its place, and turning goes down to its newest end", () => {
  const tree = grown();
  assert.deepEqual(tree.branch("e"), { place: 2, count: 3 });
  tree.turn("e", -1);
  assert.deepEqual(tree.path(), ["a", "b", "d"]);
  tree.turn("d", 1);
  assert.deepEqual(tree.path(), ["a", "b", "e", "f"]);
  tree.turn("e", 1);
  assert.deepEqual(tree.path(), ["a", "b", "e", "f"], "there is no next branch");
});

test("stored messages in any order give the same tree", () => {
  const tree = grown();
  const all = ["f", "c", "a", "e", "d", "b"].map((id) => tree.get(id) as Message);
  const read = new Tree(all, "d");
  assert.deepEqual(read.path(), ["a", "b", "d"]);
  assert.deepEqual(read.branch("e"), { place: 2, count: 3 });
  assert.deepEqual(new Tree(all, "gone").path(), ["a", "b", "e", "f"]);
});

test("removing takes what follows along and shows the branch beside it", () => {
  const tree = grown();
  assert.deepEqual(tree.remove("e").sort(), ["e", "f"]);
  assert.deepEqual(tree.path(), ["a", "b", "d"]);
  tree.remove("c");
  assert.deepEqual(tree.branch("d"), { place: 0, count: 1 });
  tree.remove("a");
  assert.deepEqual([tree.path(), tree.size], [[], 0]);
});

test("the messages before one are those of its own branch", () => {
  const tree = grown();
  assert.deepEqual(tree.until("c").map((one) => one.id), ["a", "b", "c"]);
  assert.deepEqual(tree.until("c", false).map((one) => one.id), ["a", "b"]);
});

test("a chain of messages that ends in itself does not hang", () => {
  const tree = new Tree([message("x", "gone")], "x");
  assert.deepEqual(tree.path(), ["x"]);
});
