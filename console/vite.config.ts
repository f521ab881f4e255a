import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

// The same sources and lock file give the same bytes: no time, no path and no version of Node goes into them.
export default defineConfig({
  base: "/",
  publicDir: false,
  build: {
    outDir: fileURLToPath(new URL("../src/deepwell/server/families/site/bundle", import.meta.url)),
    emptyOutDir: true,
    target: "es2022",
    assetsDir: "assets",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    sourcemap: false,
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8000" } },
});
