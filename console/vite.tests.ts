import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const folder = new URL("./tests/", import.meta.url);
const files = readdirSync(folder).filter((name) => name.endsWith(".test.ts"));

// Node's own test runner takes JavaScript: the tests of pure logic are built into node_modules/.tests first.
export default defineConfig({
  logLevel: "warn",
  build: {
    ssr: true,
    outDir: fileURLToPath(new URL("./node_modules/.tests", import.meta.url)),
    emptyOutDir: true,
    target: "node20",
    rolldownOptions: {
      input: Object.fromEntries(files.map((name) => [name.replace(".ts", ""), fileURLToPath(new URL(name, folder))])),
    },
  },
});
