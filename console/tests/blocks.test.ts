import assert from "node:assert/strict";
import { test } from "node:test";
import { BlockReader, blocksOf } from "../src/ui/blocks";

const TEXT = `# Title

A paragraph that
goes on.
- a list
- of items

  with a paragraph inside

1. another
   \`\`\`python
   x = 1

   y = 2
   \`\`\`
2. list

\`\`\`\`md
\`\`\`
not the end
\`\`\`
\`\`\`\`

| a | b |
|---|---|
| 1 | 2 |

> quoted
> twice

Setext
------

<details>

hidden

</details>

last`;

test("text that grows gives the same blocks as the whole, however it is cut", () => {
  for (const size of [1, 2, 3, 7, 50, 1000]) {
    const reader = new BlockReader();
    let blocks: readonly string[] = [];
    for (let end = 0; end < TEXT.length + size; end += size) blocks = reader.read(TEXT.slice(0, end));
    assert.deepEqual(blocks.map(trimmed), blocksOf(TEXT).map(trimmed), `pieces of ${size}`);
  }
});

test("only the last block changes while text grows", () => {
  const reader = new BlockReader();
  const long = "word ".repeat(200);
  let before = reader.read("");
  for (let part = 1; part <= 50; part += 1) {
    const blocks = reader.read(`${long}\n\n`.repeat(part) + long.slice(0, 300));
    assert.deepEqual(blocks.slice(0, Math.max(before.length - 1, 0)), before.slice(0, -1));
    before = blocks;
  }
  assert.equal(before.length, 51);
});

test("a text that does not continue the one before is read anew", () => {
  const reader = new BlockReader();
  reader.read("# One\n\ntwo");
  assert.deepEqual(reader.read("three"), ["three"]);
});

test("links know their definitions in every block", () => {
  const [first] = blocksOf("see [it][1]\n\nmore\n\n[1]: https://example.com\n");
  assert.ok(first?.includes("[1]: https://example.com"));
});

function trimmed(text: string): string {
  return text.trim();
}
