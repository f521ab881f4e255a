// int8 products of many rows on AMX: 16 rows times 16 outputs times 64 columns in one instruction.
//
// A packed block already has the layout of a tile of weights (four columns of an output are one word, so 16 outputs are a row of the
// tile), and quantised rows that of a tile of activations: nothing is packed anew. The sums of a group of columns are the same
// integers as elsewhere and are scaled and added in the same order, so every output has the bits of the other tables.
//
// NOTE cost. Of a group of 16 rows and 32 outputs the products take 11 ns, what is loaded and stored for them as long again, and the
// sums in floats 22, of which nothing overlaps where products and sums of whole tiles take turns; by halves some does: 60 to 75 ns in all
// with a core to itself, 80 to 95 where another machine shares it (75 and 120 before). Floats that stay in registers while the groups pass
// were no faster (tiles are loaded twice as often), nor two groups to a pass, nor sums stored one tile later, and int4 was not either way
// (groups of 32 columns: half as many products to a sum, and two terms to add); it has its tiles of vectors.
//
// Rows that do not fill a tile are computed twice, never read beyond: the last tile ends at the last row.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/prefetch.h"
#include "kernels/quantize.h"
#include "kernels/simd.h"

#if defined(DW_TILES)
namespace deepwell {
namespace DW_ISA {

constexpr int kTile = 16;       // rows of a tile, and its outputs
constexpr int kTileBytes = 64;  // of a row of a tile
constexpr int kTileDims = 32;   // of bf16 in it
constexpr int kTilesFrom = 8;   // rows from which on tiles are faster

// Tiles: 0 and 1 hold sums, 2 activations, 3 and 4 weights.
struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};

// Of this thread, while a step runs that may use tiles.
struct TileState {
  bool on;
  int rows;  // that tiles of activations have, or kLatentTiles; 0: not configured
};
static thread_local TileState tile_state;

constexpr int kLatentTiles = -1;  // in place of a number of rows: tiles of latent attention (mla_tiles.h)

static void configure_tiles(int rows) {
  if (tile_state.rows == rows) return;
  TileConfig c;
  memset(&c, 0, sizeof c);
  c.palette = 1;
  for (int t = 0; t < 8; t++) c.bytes[t] = kTileBytes, c.rows[t] = t < 3 && rows > 0 ? rows : kTile;
  if (rows == kLatentTiles) c.bytes[5] = kTileBytes / 2, c.rows[6] = kTile / 2;  // half as many columns
  DW_TILE_CONFIGURE(&c);
  tile_state.rows = rows;
}

// Lets one function of a table run with tiles.
struct TileScope {
  TileScope() { tile_state = {true, 0}; }
  ~TileScope() {
    if (tile_state.rows) DW_TILE_RELEASE();
    tile_state = {false, 0};
  }
};

DW_INLINE bool takes_tiles(int rows) { return rows >= kTilesFrom && tile_state.on; }

// The sums of a group of the rows [first, end) of a tile in half `c` of a panel -> y [end][32]. `Lines` from `ask` on are asked for with
// every row: all at once they would fill the core's miss buffers, and loads would wait.
template <bool Fresh, int Lines>
DW_INLINE void add_half(int c, int first, int end, const float* scale, size_t groups, const uint8_t* block, const int32_t* sums, float* y,
                        const uint8_t* ask) {
  const vf d = load_half((const uint16_t*)block + c * W);
  sums += c * kTile * kTile, y += c * W, ask += c * Lines * kTile * 64;
#pragma GCC unroll 16
  for (int r = first; r < end; r++) {
    float* to = y + r * kPanel;
    store(to, fma(to_float(load_bytes(sums + r * kTile)), d * scale[r * groups], Fresh ? vf{} : load(to)));
    for (int i = 0; i < Lines; i++, ask += 64) prefetch_later(ask);
  }
}

// Fewer rows than fill a tile, at least half of it -> y [rows][32].
static void tile_part(const Matrix& w, const uint8_t* panel, const Activations& a, int row, int rows, float* y) {
  alignas(64) int32_t sums[2][kTile * kTile];
  const size_t panel_bytes = w.groups * w.block_bytes;
  for (int g = 0; g < w.groups; g++) {
    const uint8_t* block = panel + g * w.block_bytes;
    DW_TILE_ZERO(0);
    DW_TILE_ZERO(1);
    DW_TILE_LOAD(2, a.bytes + (size_t)row * a.row_bytes + (size_t)g * kTileBytes, a.row_bytes);
    DW_TILE_LOAD(3, block + kPanel * 2, kPanel * 4);
    DW_TILE_LOAD(4, block + kPanel * 2 + kTileBytes, kPanel * 4);
    DW_TILE_DOT8(0, 2, 3);
    DW_TILE_DOT8(1, 2, 4);
    DW_TILE_STORE(0, sums[0], kTileBytes);
    DW_TILE_STORE(1, sums[1], kTileBytes);
    const float* scale = a.scale + (size_t)row * a.groups + g;
    for (int c = 0; c < 2; c++) {
      if (g == 0) add_half<true, 2>(c, 0, rows, scale, a.groups, block, sums[0], y, block + panel_bytes);
      else add_half<false, 2>(c, 0, rows, scale, a.groups, block, sums[0], y, block + panel_bytes);
    }
  }
}

// A tile of rows and a group of columns, whose sums one half of the panel after the other are multiplied, and later added.
struct TileUnit {
  int g, t;
};

// Rows that fill a tile, or several -> y [rows][32]. While half of a tile is multiplied, as much of the tile before is added: both units of a
// core that multiply floats are busy then, where products and sums of whole tiles took turns. Tiles are loaded as soon as they are free.
static void tile_blocks(const Matrix& w, const uint8_t* panel, const Activations& a, int row, int rows, float* y) {
  alignas(64) int32_t sums[2][2 * kTile * kTile];
  const int tiles = ceil_div(rows, kTile), units = w.groups * tiles;
  const size_t panel_bytes = w.groups * w.block_bytes;
  auto first_of = [&](int t) { return min_of(t * kTile, rows - kTile); };
  auto block_of = [&](int g) { return panel + g * w.block_bytes; };
  auto weights_of = [&](int g) { return block_of(g) + kPanel * 2; };
  auto load_rows = [&](const TileUnit& u) {
    DW_TILE_LOAD(2, a.bytes + (size_t)(row + first_of(u.t)) * a.row_bytes + (size_t)u.g * kTileBytes, a.row_bytes);
  };
  TileUnit before = {}, now = {};
  load_rows(now);
  DW_TILE_LOAD(3, weights_of(0), kPanel * 4);
  DW_TILE_LOAD(4, weights_of(0) + kTileBytes, kPanel * 4);
  for (int u = 0; u <= units; u++) {
    int32_t* to = sums[u % 2];
    const TileUnit next = now.t + 1 < tiles ? TileUnit{now.g, now.t + 1} : TileUnit{now.g + 1, 0};
    const bool last = u + 1 >= units;
    auto add = [&](int c) __attribute__((always_inline)) {
      if (u == 0) return;
      const int32_t* from = sums[(u + 1) % 2];
      const int first = first_of(before.t), done = before.t * kTile - first;  // rows that the tile before has computed
      const float* scale = a.scale + (size_t)(row + first) * a.groups + before.g;
      const uint8_t *block = block_of(before.g), *ask = block + panel_bytes;
      float* out = y + first * kPanel;
      if (before.g == 0 && before.t == 0) add_half<true, 1>(c, 0, kTile, scale, a.groups, block, from, out, ask);
      else if (before.t == 0) add_half<false, 1>(c, 0, kTile, scale, a.groups, block, from, out, ask);
      else if (done) before.g == 0 ? add_half<true, 0>(c, done, kTile, scale, a.groups, block, from, out, ask)
                                   : add_half<false, 0>(c, done, kTile, scale, a.groups, block, from, out, ask);
      else if (before.g == 0) add_half<true, 0>(c, 0, kTile, scale, a.groups, block, from, out, ask);
      else add_half<false, 0>(c, 0, kTile, scale, a.groups, block, from, out, ask);
    };
    if (u < units) {
      DW_TILE_ZERO(0);
      DW_TILE_DOT8(0, 2, 3);
      if (next.t == 0 && !last) DW_TILE_LOAD(3, weights_of(next.g), kPanel * 4);
      DW_TILE_STORE(0, to, kTileBytes);
    }
    add(0);
    if (u < units) {
      DW_TILE_ZERO(1);
      DW_TILE_DOT8(1, 2, 4);
      if (!last) load_rows(next);
      if (next.t == 0 && !last) DW_TILE_LOAD(4, weights_of(next.g) + kTileBytes, kPanel * 4);
      DW_TILE_STORE(1, to + kTile * kTile, kTileBytes);
      if (now.t == 0) prefetch_later(block_of(now.g) + panel_bytes + 2 * kTile * 64);  // the line behind those that `add_half` asks for
    }
    add(1);
    before = now, now = next;
  }
}


// Rows [row, end) of one panel, at most kRowBlock: a panel is read front to back once, group by group, while the next one is asked for.
template <class Epilogue>
static void tile_panel_rows(const Matrix& w, int p, const Activations& a, int row, int end, const Epilogue& epilogue) {
  alignas(64) float y[kRowBlock * kPanel];
  const int rows = end - row;
  const uint8_t* panel = w.data + (size_t)p * w.groups * w.block_bytes;
  configure_tiles(min_of(rows, kTile));
  if (rows < kTile) tile_part(w, panel, a, row, rows, y);
  else tile_blocks(w, panel, a, row, rows, y);
  for (int r = row; r < end; r++) epilogue(r, p, y + (r - row) * kPanel);
}

// Products of tiles alone, from registers: what this machine can reach at best in integers, whatever the bits of a weight, and in
// bf16. Returns the products it did.
static double tile_roof(bool bf16) {
#if defined(DW_EMULATE_AVX512)
  constexpr int kRounds = 1 << 4;
#else
  constexpr int kRounds = 1 << 16;
#endif
  configure_tiles(kTile);
  DW_TILE_ZERO(2);
  DW_TILE_ZERO(3);
  for (int i = 0; i < kRounds; i++) {
    if (bf16) {
      DW_TILE_DOT_BF16(0, 2, 3);
      DW_TILE_DOT_BF16(1, 2, 3);
      DW_TILE_DOT_BF16(4, 2, 3);
      DW_TILE_DOT_BF16(5, 2, 3);
    } else {
      DW_TILE_DOT8(0, 2, 3);
      DW_TILE_DOT8(1, 2, 3);
      DW_TILE_DOT8(4, 2, 3);
      DW_TILE_DOT8(5, 2, 3);
    }
  }
  return (double)kRounds * 4 * kTile * kTile * (bf16 ? kTileDims : kTileBytes);
}

}  // namespace DW_ISA
}  // namespace deepwell
#endif
